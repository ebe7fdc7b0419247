package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process has used.
type Usage struct {
	CPU time.Duration // user and system time since its start
	RSS int64         // resident memory now, in bytes
}

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every platform that Go has.
const tick = 10 * time.Millisecond

// UsageOf reads what the process of that id has used.
func UsageOf(pid int) (Usage, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, fmt.Errorf("read what process %d uses: %w", pid, err)
	}
	return parseStat(string(text))
}

// parseStat reads /proc/PID/stat (proc(5)): utime is field 14, stime 15, rss 24, in pages.
func parseStat(text string) (Usage, error) {
	// The second field is the program's name in parentheses, which may have anything in it.
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 22 {
		return Usage{}, fmt.Errorf("read what a process uses: %q is not a line of /proc/PID/stat", text)
	}
	var values [3]int64
	for i, field := range []int{14 - 3, 15 - 3, 24 - 3} {
		v, err := strconv.ParseInt(fields[field], 10, 64)
		if err != nil {
			return Usage{}, fmt.Errorf("read what a process uses: %w", err)
		}
		values[i] = v
	}
	return Usage{CPU: time.Duration(values[0]+values[1]) * tick, RSS: values[2] * int64(os.Getpagesize())}, nil
}

// RunTime is how long the threads of a process have run that are there now, to the nanosecond: for what is measured in parts of a second, where the ticks of UsageOf are too coarse.
func RunTime(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err == nil && len(files) == 0 {
		err = os.ErrProcessDone
	}
	if err != nil {
		return 0, fmt.Errorf("read how long process %d has run: %w", pid, err)
	}
	var all time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // The thread has ended meanwhile.
		}
		// sched-stats of Linux: the time on a processor in nanoseconds, then the time of waiting, then a count.
		ran, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read how long process %d has run: %w", pid, err)
		}
		all += time.Duration(ns)
	}
	return all, nil
}

// Machine is what all processors of the machine have done since it started.
type Machine struct {
	Busy  time.Duration // with programs, or taken away by the host
	Total time.Duration
}

// ReadMachine reads it.
func ReadMachine() (Machine, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Machine{}, fmt.Errorf("read what the machine does: %w", err)
	}
	return parseMachine(string(text))
}

// parseMachine reads the first line of /proc/stat (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
func parseMachine(text string) (Machine, error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return Machine{}, fmt.Errorf("read what the machine does: %q is not the first line of /proc/stat", line)
	}
	var m Machine
	for i, field := range fields[1:9] {
		v, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return Machine{}, fmt.Errorf("read what the machine does: %w", err)
		}
		m.Total += time.Duration(v) * tick
		if i != 3 && i != 4 {
			m.Busy += time.Duration(v) * tick
		}
	}
	return m, nil
}
