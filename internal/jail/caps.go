package jail

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"golang.org/x/sys/unix"
)

// Caps is a set of capabilities: bit n is capability n (capabilities(7)).
type Caps uint64

// FileServer are the capabilities that serving files takes (fs-device.md F.6).
const FileServer Caps = 1<<unix.CAP_CHOWN | // SETATTR of the owner
	1<<unix.CAP_DAC_OVERRIDE | // files of others
	1<<unix.CAP_FOWNER | // mode and times of files of others, O_NOATIME, links
	1<<unix.CAP_FSETID | // set-id bits that stay
	1<<unix.CAP_SETGID | // new objects get the caller's group,
	1<<unix.CAP_SETUID | // and the caller as their owner
	1<<unix.CAP_MKNOD | // device nodes
	1<<unix.CAP_SETFCAP // security.capability

// FileHandles is what opening by file handle takes besides.
const FileHandles Caps = 1 << unix.CAP_DAC_READ_SEARCH

// capNames are the capabilities by number (linux/capability.h).
var capNames = [...]string{
	"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid",
	"setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw",
	"ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct",
	"sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod",
	"lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog",
	"wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore",
}

// Modify applies a list of the form of --modcaps to the set: "+sys_admin:-mknod".
func (c Caps) Modify(list string) (Caps, error) {
	for change := range strings.SplitSeq(list, ":") {
		name := ""
		if change != "" {
			name = strings.TrimPrefix(strings.ToLower(change[1:]), "cap_")
		}
		n := -1
		for i, known := range capNames {
			if known == name {
				n = i
			}
		}
		switch {
		case n < 0 || change[0] != '+' && change[0] != '-':
			return 0, fmt.Errorf("%q: want + or - and the name of a capability, for example -mknod or +sys_admin (capabilities(7))", change)
		case change[0] == '+':
			c |= 1 << n
		default:
			c &^= 1 << n
		}
	}
	return c, nil
}

// String lists the names.
func (c Caps) String() string {
	if c == 0 {
		return "none"
	}
	var names []string
	for _, n := range c.list() {
		if int(n) < len(capNames) {
			names = append(names, capNames[n])
		} else {
			names = append(names, fmt.Sprint(n))
		}
	}
	return strings.Join(names, " ")
}

// list returns the numbers.
func (c Caps) list() []uintptr {
	var list []uintptr
	for ; c != 0; c &= c - 1 {
		list = append(list, uintptr(bits.TrailingZeros64(uint64(c))))
	}
	return list
}

// allCaps returns those that the kernel has.
func allCaps() Caps {
	var all Caps
	for n := range 64 {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err == nil {
			all |= 1 << n
		}
	}
	return all
}

// bound takes all other capabilities from the bounding set of all threads, and has those
// that they have survive a change of the user id.
func bound(keep Caps) error {
	now, err := capget()
	if err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if now.effective&(1<<unix.CAP_SETPCAP) != 0 {
		if err := fixCaps(); err != nil {
			return err
		}
		for _, n := range (bounding() &^ keep).list() {
			if err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, n, 0); err != nil {
				return fmt.Errorf("drop %v from the bounding set: %w", Caps(1)<<n, err)
			}
		}
	}
	return nil
}

// bequeath takes all other capabilities from the bounding set of the calling thread alone,
// which is about to start the server. In the server it would be a signal to each thread
// for each of them. What execve then takes from root it has by its inheritable set, until
// keepOnly (capabilities(7), "Transformation of capabilities during execve").
func bequeath(keep Caps) error {
	now, err := capget()
	if err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if now.effective&(1<<unix.CAP_SETPCAP) == 0 {
		return nil
	}
	set := bounding()
	now.inheritable = now.permitted & set
	data := now.words()
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return fmt.Errorf("pass capabilities to the server: %w", err)
	}
	for _, n := range (set &^ keep).list() {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0); err != nil {
			return fmt.Errorf("drop %v from the bounding set: %w", Caps(1)<<n, err)
		}
	}
	return nil
}

// fixCaps has the capabilities of all threads survive a change of the user id
// (fs-device.md F.1.1).
func fixCaps() error {
	const noFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP, linux/securebits.h
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, noFixup, 0); err != nil {
		return fmt.Errorf("keep capabilities over changes of the user: %w", err)
	}
	return nil
}

// keepOnly takes all other capabilities from all threads, for good.
func keepOnly(keep Caps) error {
	now, err := capget()
	if err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	keep &= now.permitted
	if err := capset(capSets{effective: keep, permitted: keep}); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// bounding returns the bounding set of the calling thread.
func bounding() Caps {
	var set Caps
	for n := range 64 {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err == nil && has == 1 {
			set |= 1 << n
		}
	}
	return set
}

// capSets are those that a thread has besides the bounding one.
type capSets struct{ effective, permitted, inheritable Caps }

// words returns the sets as capset(2) wants them.
func (s capSets) words() [2]unix.CapUserData {
	var data [2]unix.CapUserData
	for i := range data {
		data[i] = unix.CapUserData{
			Effective:   uint32(s.effective >> (32 * i)),
			Permitted:   uint32(s.permitted >> (32 * i)),
			Inheritable: uint32(s.inheritable >> (32 * i)),
		}
	}
	return data
}

// capget reads the sets of the calling thread.
func capget() (capSets, error) {
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return capSets{}, err
	}
	var s capSets
	for i, d := range data {
		s.effective |= Caps(d.Effective) << (32 * i)
		s.permitted |= Caps(d.Permitted) << (32 * i)
		s.inheritable |= Caps(d.Inheritable) << (32 * i)
	}
	return s, nil
}
