package supervision

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
	"github.com/policy-engine/policy-engine/test/process"
)

// Programs for the engine's places.
const (
	// serving says who it is and how many there are, answers SIGHUP, and ends when it is asked to.
	serving = `trap 'echo hangup' HUP
trap 'echo stopped; exit 0' TERM
echo "serving $$ of $POLICY_ENGINE_PROCESSES"
while :; do sleep 0.02; done`
	broken = `exit 3`
	// talkative writes more than a pipe and the supervisor's buffer hold, then says so in a file.
	talkative = `i=0
while [ $i -lt 400 ]; do printf '%08191d\n' $i; i=$((i+1)); done
echo done >"$POLICY_ENGINE_RUN_DIR/talked"
exec sleep 1000`
	// ragged writes a line in two pieces, which another program's lines must not get into.
	ragged = `printf 'begin-'; sleep 0.2; echo end
exec sleep 1000`
)

// container is supervise.py with its programs, in a folder of its own.
type container struct {
	t   *testing.T
	dir string
	env []string
	*process.Process
}

// prepare writes the programs, by name.
func prepare(t *testing.T, programs map[string]string) *container {
	t.Helper()
	dir, err := os.MkdirTemp("", "supervise-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &container{t: t, dir: dir, env: []string{
		"POLICY_ENGINE_BIN_DIR=" + dir, "POLICY_ENGINE_ETC_DIR=" + dir, "POLICY_ENGINE_RUN_DIR=" + filepath.Join(dir, "run"),
		"POLICY_ENGINE_LOG_DIR=" + filepath.Join(dir, "log"), "POLICY_ENGINE_INCLUDE=" + filepath.Join(dir, "none", "*.conf"),
		"POLICY_ENGINE_WORKER_2=" + strconv.FormatBool(programs["policy-worker-2"] != ""),
	}}
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// As it is, but for the patience with what can't be started.
	conf := strings.ReplaceAll(c.read(c.root(), "supervisord.conf"), "startretries=10", "startretries=1")
	if err := os.WriteFile(filepath.Join(dir, "supervisord.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *container) root() string {
	c.t.Helper()
	root, err := harness.Root()
	if err != nil {
		c.t.Fatal(err)
	}
	return root
}

func (c *container) read(path ...string) string {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// command is the program with its arguments. The Python is the one that supervisord runs on.
func (c *container) command() (python string, args []string) {
	c.t.Helper()
	fetch := exec.Command(filepath.Join(c.root(), "tools", "fetch.sh"), "supervisord")
	fetch.Stderr = os.Stderr
	supervisord, err := fetch.Output()
	if err != nil {
		c.t.Fatalf("no supervisord: %v", err)
	}
	first, _, _ := strings.Cut(c.read(strings.TrimSpace(string(supervisord))), "\n")
	python, found := strings.CutPrefix(first, "#!")
	if !found {
		c.t.Fatalf("%s begins with %q, which names no Python", supervisord, first)
	}
	return strings.TrimSpace(python), []string{filepath.Join(c.root(), "deploy", "container", "supervise.py"), "--configuration", filepath.Join(c.dir, "supervisord.conf")}
}

func start(t *testing.T, programs map[string]string) *container {
	t.Helper()
	c := prepare(t, programs)
	python, args := c.command()
	p, err := process.Start("supervise", python, c.env, args...)
	if err != nil {
		t.Fatal(err)
	}
	c.Process = p
	t.Cleanup(func() {
		if p.Running() {
			p.Stop(harness.Timeout)
		}
		if t.Failed() {
			t.Logf("output:\n%s", process.Tail(p.Output(), 6000))
		}
	})
	return c
}

// wrote waits until standard output has a pattern that often.
func (c *container) wrote(pattern string, times int) [][]string {
	c.t.Helper()
	var found [][]string
	harness.Eventually(c.t, fmt.Sprintf("%d times %q", times, pattern), func() error {
		found = regexp.MustCompile(`(?m)`+pattern).FindAllStringSubmatch(c.Output(), -1)
		if len(found) < times {
			return fmt.Errorf("%d so far", len(found))
		}
		return nil
	})
	return found
}

func (c *container) ends(want int) {
	c.t.Helper()
	if status, err := c.Wait(harness.Timeout); err != nil || status != want {
		c.t.Fatalf("exit status %d, want %d, error %v", status, want, err)
	}
}

func TestSupervise(t *testing.T) {
	c := start(t, map[string]string{"policy-kernel": serving, "policy-worker-1": serving})
	pids := c.wrote(`^serving (\d+) of 2$`, 2)
	c.wrote("entered RUNNING", 2)

	if err := c.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	c.wrote("^hangup$", 2)

	pid, _ := strconv.Atoi(pids[0][1])
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.wrote(`^serving (\d+) of 2$`, 3)
	if late := restartDelay(t, c.Output()); late > 500*time.Millisecond {
		t.Errorf("the program was started again %v after its end", late)
	}

	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.ends(0)
	out := c.Output()
	if kernel, worker := strings.Index(out, "stopped: policy-kernel"), strings.Index(out, "stopped: policy-worker-1"); kernel < 0 || worker < kernel {
		t.Errorf("the kernel has to stop before the workers: at %d and %d", kernel, worker)
	}
	for _, name := range []string{"policy-kernel", "policy-worker-1"} {
		if log := c.read(c.dir, "log", name+".log"); !strings.Contains(log, "serving") || !strings.Contains(log, "stopped") {
			t.Errorf("%s.log: %q", name, log)
		}
	}
	if info, err := os.Stat(filepath.Join(c.dir, "run", "workers")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the sockets' folder: %v, error %v", info, err)
	}
}

// restartDelay is the time between the lines that a program has ended and that it was started again.
func restartDelay(t *testing.T, output string) time.Duration {
	t.Helper()
	var ended, again time.Time
	for line := range strings.Lines(output) {
		var l struct {
			Timestamp time.Time
			Message   string
			Component string
		}
		if json.Unmarshal([]byte(line), &l) != nil || l.Component != "supervisor" {
			continue
		}
		switch {
		case strings.HasPrefix(l.Message, "exited: "):
			ended = l.Timestamp
		case strings.HasPrefix(l.Message, "spawned: ") && !ended.IsZero() && again.IsZero():
			again = l.Timestamp
		}
	}
	if ended.IsZero() || again.IsZero() {
		t.Fatal("no line says that a program has ended and was started again")
	}
	return again.Sub(ended)
}

// TestFatal: with a program that can't be started the container ends, all of it, and does not look well.
func TestFatal(t *testing.T) {
	c := start(t, map[string]string{"policy-kernel": serving, "policy-worker-1": serving, "policy-worker-2": broken})
	c.ends(1)
	c.wrote(`"level": "error".*policy-worker-2 can't be started any more`, 1)
	c.wrote("^stopped$", 2)
	c.wrote("^serving .* of 3$", 2)
}

// TestLines: a line of one program is never torn by another's.
func TestLines(t *testing.T) {
	c := start(t, map[string]string{"policy-kernel": ragged, "policy-worker-1": `while :; do echo line; sleep 0.01; done`})
	c.wrote("^begin-end$", 1)
	c.wrote("^line$", 10)
}

// TestStoppedReader: nobody reads standard output. The programs go on, the files have every line, and when the reader is back it learns what it has missed.
func TestStoppedReader(t *testing.T) {
	c := prepare(t, map[string]string{"policy-kernel": talkative, "policy-worker-1": serving})
	python, args := c.command()
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	cmd := exec.Command(python, args...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdout = writing
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = writing.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()

	harness.Eventually(t, "the program has written everything", func() error {
		_, err := os.Stat(filepath.Join(c.dir, "run", "talked"))
		return err
	})
	harness.Eventually(t, "the file has it", func() error {
		log, err := os.ReadFile(filepath.Join(c.dir, "log", "policy-kernel.log"))
		if lines := bytes.Count(log, []byte{'\n'}); err != nil || lines != 400 {
			return fmt.Errorf("%d lines, error %v", lines, err)
		}
		return nil
	})

	lines := bufio.NewScanner(reading)
	lines.Buffer(nil, 1<<20)
	lost := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines.Scan() {
			if m := regexp.MustCompile(`"lost": (\d+)`).FindStringSubmatch(lines.Text()); m != nil {
				select {
				case lost <- m[1]:
				default:
				}
			}
		}
	}()
	harness.Eventually(t, "the reader learns that lines were lost", func() error {
		select {
		case n := <-lost:
			if n == "0" {
				return fmt.Errorf("%s lines", n)
			}
			return nil
		default:
			_ = cmd.Process.Signal(syscall.SIGUSR2) // It has the log files opened again, and says so.
			return errors.New("not yet")
		}
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(harness.Timeout):
		t.Error("it does not end")
	}
	<-read
}

// TestFolder: without a place for sockets and logs there is a reason, and an end.
func TestFolder(t *testing.T) {
	c := prepare(t, map[string]string{"policy-kernel": serving, "policy-worker-1": serving})
	if err := os.WriteFile(filepath.Join(c.dir, "run"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	python, args := c.command()
	p, err := process.Start("supervise", python, c.env, args...)
	if err != nil {
		t.Fatal(err)
	}
	c.Process = p
	c.ends(1)
	c.wrote("^supervise: make folder .*/run: .*; mount a tmpfs", 1)
}
