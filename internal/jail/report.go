package jail

import (
	"encoding/json"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// A Report says what is in force.
type Report struct {
	identity
	Mode        Mode
	Root        string
	Effective   Caps
	Bounding    Caps
	NoNewPrivs  bool
	Landlock    string
	Seccomp     string
	SeccompMode int // what the kernel says: 0 off, 2 a filter
}

// read asks the kernel for what the calling thread has now.
func (r *Report) read() error {
	sets, err := capget()
	if err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	r.Effective, r.Bounding = sets.effective, bounding()
	nnp, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("read no_new_privs: %w", err)
	}
	r.NoNewPrivs = nnp == 1
	if r.SeccompMode, err = unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("read the seccomp mode: %w", err)
	}
	return nil
}

// namespaces lists those that are the server's own.
func (r *Report) namespaces() string {
	switch {
	case r.Mode != Namespace:
		return "none"
	case r.User:
		return "user pid mount net ipc uts"
	}
	return "pid mount net ipc uts"
}

// facts are the report's lines, in order.
func (r *Report) facts() [][2]string {
	ids := "the host's"
	if r.User {
		flat := func(m fmt.Stringer) string { return strings.ReplaceAll(strings.TrimSpace(m.String()), "\n", ", ") }
		ids = fmt.Sprintf("uid %d of (%s), gid %d of (%s)", r.UID, flat(r.UIDMap), r.GID, flat(r.GIDMap))
	}
	return [][2]string{
		{"sandbox", string(r.Mode)},
		{"root", r.Root},
		{"namespaces", r.namespaces()},
		{"ids", ids},
		{"capabilities", r.Effective.String()},
		{"bounding", r.Bounding.String()},
		{"no_new_privs", fmt.Sprint(r.NoNewPrivs)},
		{"landlock", r.Landlock},
		{"seccomp", r.Seccomp},
	}
}

// String returns the report as lines of a name and a value.
func (r *Report) String() string {
	var b strings.Builder
	for _, fact := range r.facts() {
		fmt.Fprintf(&b, "%-13s %s\n", fact[0], fact[1])
	}
	return b.String()
}

// MarshalJSON returns the same as an object.
func (r *Report) MarshalJSON() ([]byte, error) {
	object := make(map[string]string)
	for _, fact := range r.facts() {
		object[fact[0]] = fact[1]
	}
	return json.Marshal(object)
}
