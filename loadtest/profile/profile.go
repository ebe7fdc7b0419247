// Package profile takes profiles of the engine's processes under load.
package profile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/closedloop"
	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/rig"
)

// Options are those of a run.
type Options struct {
	Duration    time.Duration // of the CPU profile
	Connections int
	Clients     int
	Engine      rig.Spec

	Programs    rig.Programs
	Credentials string // folder where they are kept
	Reports     string // folder of what is written; profiles are below profile/
	Out         io.Writer
}

// margin is how long the load lasts beyond the CPU profile, for the other profiles.
const margin = 3 * time.Second

// view is a table to print of a profile.
type view struct {
	kind, index string
	entries     int
}

var views = []view{
	{"cpu", "", 30}, {"heap", "inuse_space", 10}, {"heap", "alloc_space", 10}, {"mutex", "delay", 10}, {"block", "delay", 10},
}

// Run starts the engine, loads it from a fixed number of connections, and takes the profiles.
func Run(ctx context.Context, o Options) error {
	c, err := credentials.Load(o.Credentials, o.Clients, o.Clients, time.Now(), nil)
	if err != nil {
		return err
	}
	o.Engine.Asked, o.Engine.Profiled = rig.Engine, true
	r, err := rig.Start(ctx, o.Engine, o.Programs, c)
	if err != nil {
		return err
	}
	defer r.Stop()
	if err := r.Verify(ctx, c); err != nil {
		return err
	}
	dir := filepath.Join(o.Reports, "profile")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	fmt.Fprintf(o.Out, "taking profiles for %v\n", o.Duration)
	loaded, stop := context.WithTimeout(ctx, o.Duration+margin)
	defer stop()
	load := &closedloop.Load{Target: r.Target, Connections: o.Connections, Requests: r.Requests(c, 0, len(c.Keys))}
	done := make(chan error, 1)
	var result *closedloop.Result
	go func() {
		var err error
		result, err = closedloop.Run(loaded, load, o.Duration+margin)
		done <- err
	}()
	err = takeAll(ctx, r, dir, o.Duration)
	stop()
	if loadErr := <-done; loadErr != nil && loaded.Err() == nil {
		err = errors.Join(err, loadErr)
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "%.0f requests a second from %d connections\n", result.PerSecond(), o.Connections)
	return printAll(ctx, o.Out, r, dir)
}

// takeAll takes the profiles of all processes at the same time.
func takeAll(ctx context.Context, r *rig.Rig, dir string, d time.Duration) error {
	urls := r.Profiles()
	errs := make([]error, 0, len(urls))
	var mu sync.Mutex
	var all sync.WaitGroup
	for name, url := range urls {
		all.Go(func() {
			err := takeOne(ctx, name, url, dir, d)
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func takeOne(ctx context.Context, name, url, dir string, d time.Duration) error {
	for _, page := range []struct{ kind, path string }{
		{"cpu", "profile?seconds=" + strconv.Itoa(max(int(d.Seconds()), 1))}, {"heap", "heap"}, {"mutex", "mutex"}, {"block", "block"},
	} {
		if err := save(ctx, url+page.path, file(dir, name, page.kind)); err != nil {
			return fmt.Errorf("take the %s profile of %s: %w", page.kind, name, err)
		}
	}
	return nil
}

func file(dir, name, kind string) string { return filepath.Join(dir, name+"."+kind+".pb.gz") }

func save(ctx context.Context, url, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s says %d: %.200s", url, resp.StatusCode, body)
	}
	return os.WriteFile(path, body, 0o644)
}

// printAll prints the top entries.
func printAll(ctx context.Context, out io.Writer, r *rig.Rig, dir string) error {
	for _, name := range slices.Sorted(maps.Keys(r.Profiles())) {
		for _, v := range views {
			args := []string{"tool", "pprof", "-top", "-nodecount=" + strconv.Itoa(v.entries)}
			if v.index != "" {
				args = append(args, "-sample_index="+v.index)
			}
			path := file(dir, name, v.kind)
			text, err := exec.CommandContext(ctx, "go", append(args, path)...).Output()
			if err != nil {
				return fmt.Errorf("show %s: %w", path, err)
			}
			fmt.Fprintf(out, "\n%s, %s %s (%s)\n%s", name, v.kind, v.index, path, text)
		}
	}
	return nil
}
