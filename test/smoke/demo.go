package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 90 * time.Second
	// stopTimeout is above what supervisord gives its programs one after the other.
	stopTimeout = 120 * time.Second
)

// demo is one run of deploy/demo/run.sh on ports and in a folder of its own.
type demo struct {
	dir     string            // logs, and Envoy's configuration
	temp    string            // the demo's temporary files, sockets among them
	ports   map[string]string // by the name of their variable
	cmd     *exec.Cmd
	printed []string // what the demo printed until it was ready
	exited  chan error
}

// startDemo returns when the demo says that it is ready.
func startDemo() (*demo, error) {
	if err := os.MkdirAll("build", 0o755); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("build", "smoke-")
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp("", "smoke-")
	if err != nil {
		return nil, err
	}
	d := &demo{dir: dir, temp: temp, ports: map[string]string{}, exited: make(chan error, 1)}
	d.cmd = exec.Command("deploy/demo/run.sh")
	d.cmd.Env = append(os.Environ(), "DEMO_DIR="+dir, "TMPDIR="+temp)
	if err := d.choosePorts("PORT_ENVOY", "PORT_UPSTREAM", "PORT_KERNEL", "PORT_ADMIN"); err != nil {
		return nil, err
	}
	// A process group of its own, so that it gets SIGINT as from a terminal: all of its processes at once.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	d.cmd.Stderr = os.Stderr
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the demo: %w", err)
	}

	ready := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			d.printed = append(d.printed, lines.Text())
			if strings.HasPrefix(lines.Text(), "Ctrl-C ") {
				close(ready)
				break
			}
		}
		for lines.Scan() { // Nothing may block the demo's standard output.
		}
		d.exited <- d.cmd.Wait()
	}()
	select {
	case <-ready:
		return d, nil
	case err := <-d.exited:
		return nil, fmt.Errorf("the demo ended before it was ready: %w", errors.Join(err, errors.New("logs in "+dir)))
	case <-time.After(startTimeout):
		d.kill()
		return nil, fmt.Errorf("the demo is not ready after %v; logs in %s", startTimeout, dir)
	}
}

// choosePorts finds free ports. They are held together until all are found, so that they differ.
func (d *demo) choosePorts(names ...string) error {
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return err
		}
		d.ports[name] = port
		d.cmd.Env = append(d.cmd.Env, name+"="+port)
	}
	return nil
}

// literal puts this run's ports in place of those that the README names.
func (d *demo) literal(command string) string {
	return strings.NewReplacer(
		"localhost:10000", "localhost:"+d.ports["PORT_ENVOY"],
		"localhost:9090", "localhost:"+d.ports["PORT_ADMIN"],
	).Replace(command)
}

// interrupt is Ctrl-C in a terminal.
func (d *demo) interrupt() error { return syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT) }

// terminate is SIGTERM to the script alone, as from a supervisor.
func (d *demo) terminate() error { return d.cmd.Process.Signal(syscall.SIGTERM) }

// stopped waits for the end; an error is an exit status other than 0.
func (d *demo) stopped() error {
	select {
	case err := <-d.exited:
		return err
	case <-time.After(stopTimeout):
		return fmt.Errorf("the demo still runs %v after its signal", stopTimeout)
	}
}

// kill ends everything that this run started, without asking.
func (d *demo) kill() {
	_ = d.cmd.Process.Kill()
	for _, p := range d.processes() {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

type process struct {
	pid     int
	command string
}

func (p process) String() string { return fmt.Sprintf("%d %s", p.pid, p.command) }

// processes are those that inherited this run's environment, whoever their parent is by now (proc(5)).
func (d *demo) processes() []process {
	var found []process
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range paths {
		environ, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(environ, []byte("DEMO_DIR="+d.dir+"\x00")) {
			continue
		}
		var p process
		if _, err := fmt.Sscanf(path, "/proc/%d/environ", &p.pid); err != nil {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		p.command = strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " ")
		found = append(found, p)
	}
	return found
}

// sockets are the Unix sockets in the run's folders.
func (d *demo) sockets() ([]string, error) {
	var found []string
	for _, dir := range []string{d.dir, d.temp} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type()&fs.ModeSocket != 0 {
				found = append(found, path)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("look for sockets in %q: %w", dir, err)
		}
	}
	return found, nil
}

// listening are the variables of the ports that still accept connections.
func (d *demo) listening() []string {
	var found []string
	for name, port := range d.ports {
		if conn, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second); err == nil {
			_ = conn.Close()
			found = append(found, name)
		}
	}
	return found
}
