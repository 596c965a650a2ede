package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A usage is what the processes of a backend have used since they started: the sum over
// all threads of all of them. Threads that have ended are missing, so it is meant for
// the difference over a short while.
type usage struct {
	cpu      time.Duration // on a processor
	switches uint64        // times that a thread left its processor, of its own will or not
}

// minus returns what was used since o.
func (u usage) minus(o usage) usage {
	return usage{cpu: u.cpu - o.cpu, switches: u.switches - o.switches}
}

// usageOf adds up the usage of processes and all their descendants.
func usageOf(pids []int) (usage, error) {
	var sum usage
	for _, pid := range family(pids) {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil {
			return sum, fmt.Errorf("threads of process %d: %w", pid, err)
		}
		if len(tasks) == 0 && slices.Contains(pids, pid) {
			return sum, fmt.Errorf("process %d is gone", pid)
		}
		for _, task := range tasks {
			u, err := taskUsage(task)
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
				continue // it has just ended
			}
			if err != nil {
				return sum, err
			}
			sum.cpu += u.cpu
			sum.switches += u.switches
		}
	}
	return sum, nil
}

// taskUsage reads the usage of one thread (proc(5): schedstat has nanoseconds on a
// processor first; status counts switches).
func taskUsage(dir string) (usage, error) {
	var u usage
	text, err := os.ReadFile(dir + "/schedstat")
	if err != nil {
		return u, err
	}
	fields := bytes.Fields(text)
	if len(fields) == 0 {
		return u, fmt.Errorf("%s/schedstat is empty: the kernel needs CONFIG_SCHED_INFO", dir)
	}
	ns, err := strconv.ParseInt(string(fields[0]), 10, 64)
	if err != nil {
		return u, fmt.Errorf("%s/schedstat: %w", dir, err)
	}
	u.cpu = time.Duration(ns)
	text, err = os.ReadFile(dir + "/status")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name == "voluntary_ctxt_switches" || name == "nonvoluntary_ctxt_switches" {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			if err != nil {
				return u, fmt.Errorf("%s/status: %s: %w", dir, name, err)
			}
			u.switches += n
		}
	}
	return u, nil
}

// ownUsage is the usage of the calling thread. What schedstat says of a thread that runs
// is as old as the last tick; its clock is exact.
func ownUsage() (usage, error) {
	u, err := taskUsage("/proc/thread-self")
	if err != nil {
		return u, err
	}
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return u, fmt.Errorf("processor time of this thread: %w", err)
	}
	u.cpu = time.Duration(t.Nano())
	return u, nil
}

// family returns processes with all their descendants.
func family(pids []int) []int {
	children := map[int][]int{}
	entries, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range entries {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has just ended
		}
		// The second field is the command in parentheses, and may hold anything.
		rest := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(rest) < 2 {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		parent, _ := strconv.Atoi(rest[1])
		children[parent] = append(children[parent], pid)
	}
	all := slices.Clone(pids)
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}
