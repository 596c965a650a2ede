package passthrough

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// An XattrMap says what the guest's extended attributes are called on the host, and
// which of them there are (fs-device.md G.3).
type XattrMap struct {
	rules []xattrRule
	// capability is what the guest's security.capability is called on the host, if that
	// is something else, with a NUL. The host's kernel does not know then that it ends
	// with the next change of the file (E.10.6).
	capability []byte
}

// An xattrRule is one rule. The first that fits a name counts.
type xattrRule struct {
	action         xattrAction
	client, server bool   // for names from the guest, or from the host
	key            string // what names from the guest begin with
	prepend        string // what names from the host begin with
}

// An xattrAction is what a rule does to names.
type xattrAction int

const (
	xattrPrefix      xattrAction = iota // prepend is put before, or taken away
	xattrOK                             // nothing
	xattrBad                            // there are none, and must not be: EPERM
	xattrUnsupported                    // likewise: ENOTSUP
	xattrAbsent                         // there are none: ENODATA, or EPERM when set
)

// xattrActions is a table: the types of rules but map, which stands for some of them.
var xattrActions = [...]string{xattrPrefix: "prefix", xattrOK: "ok", xattrBad: "bad", xattrUnsupported: "unsupported"}

// RewriteSecurity returns the map of crosvm's rewrite-security-xattrs (E.15.5).
func RewriteSecurity() *XattrMap {
	const security, hidden = "security.", "user.virtiofs."
	return newXattrMap([]xattrRule{
		{xattrOK, true, true, "security.selinux", "security.selinux"},
		{xattrPrefix, true, true, security, hidden},
		{xattrBad, false, true, "", security},
		{xattrAbsent, true, false, hidden, ""},
		{xattrOK, true, true, "", ""},
	})
}

// ParseXattrMap reads rules of virtiofsd's language: each begins with a character that
// then ends its type, its scope and its two names. Between them is white space.
func ParseXattrMap(text string) (*XattrMap, error) {
	var rules []xattrRule
	number, rest := 0, trimSpace(text)
	for ; rest != ""; rest = trimSpace(rest) {
		number++
		rule, after, isMap, err := parseXattrRule(rest)
		if err == nil && isMap && trimSpace(after) != "" {
			err = errors.New("a map rule must be the last one: it fits every name")
		}
		if err != nil {
			return nil, fmt.Errorf("rule %d of the map of extended attributes: %w", number, err)
		}
		rules, rest = append(rules, rule...), after
	}
	if number == 0 {
		return nil, errors.New("the map of extended attributes has no rules: write for example \":map::user.virtiofs.:\"")
	}
	var client, server bool
	for _, r := range rules {
		client = client || r.client && r.key == ""
		server = server || r.server && r.prepend == ""
	}
	if !client || !server {
		return nil, fmt.Errorf("rule %d of the map of extended attributes: it is the last one, and there are names that no rule fits: add :ok:all::: to pass them, or :bad:all::: to refuse them", number)
	}
	return newXattrMap(rules), nil
}

func trimSpace(text string) string { return strings.TrimLeftFunc(text, unicode.IsSpace) }

// parseXattrRule reads the first rule of text. A map stands for up to three.
func parseXattrRule(text string) (rules []xattrRule, rest string, isMap bool, err error) {
	_, size := utf8.DecodeRuneInString(text)
	delimiter, rest := text[:size], text[size:]
	field := func(what string) (value string) {
		value, after, ok := strings.Cut(rest, delimiter)
		if !ok && err == nil {
			err = fmt.Errorf("incomplete: its %s does not end with %q, the first character of the rule", what, delimiter)
		}
		rest = after
		return value
	}
	kind := field("type")
	if err != nil {
		return nil, "", false, err
	}
	if kind == "map" {
		key, prepend := field("key"), field("prefix")
		if err == nil {
			err = checkNames(key, prepend)
		}
		return mapRules(key, prepend), rest, true, err
	}
	r := xattrRule{action: -1}
	for action, name := range xattrActions {
		if name == kind {
			r.action = xattrAction(action)
		}
	}
	if r.action < 0 {
		return nil, "", false, fmt.Errorf("invalid type %q: want prefix, ok, bad, unsupported or map", kind)
	}
	switch scope := field("scope"); {
	case err != nil:
		return nil, "", false, err
	case scope == "all":
		r.client, r.server = true, true
	case scope == "client":
		r.client = true
	case scope == "server":
		r.server = true
	default:
		return nil, "", false, fmt.Errorf("invalid scope %q: want all, client or server", scope)
	}
	r.key, r.prepend = field("key"), field("prefix")
	if err == nil {
		err = checkNames(r.key, r.prepend)
	}
	return []xattrRule{r}, rest, false, err
}

// checkNames refuses what cannot be part of a name.
func checkNames(names ...string) error {
	for _, name := range names {
		if len(name) > maxXattrName || strings.IndexByte(name, 0) >= 0 {
			return fmt.Errorf("%.20q... cannot begin the name of an attribute: names have up to %d bytes, without NUL", name, maxXattrName)
		}
	}
	return nil
}

// mapRules returns what a map rule stands for (G.3.5).
func mapRules(key, prepend string) []xattrRule {
	rules := []xattrRule{{xattrPrefix, true, true, key, prepend}}
	if key == "" {
		return append(rules, xattrRule{xattrBad, true, true, "", ""})
	}
	return append(rules, xattrRule{xattrBad, true, true, prepend, key}, xattrRule{xattrOK, true, true, "", ""})
}

func newXattrMap(rules []xattrRule) *XattrMap {
	const capability = "security.capability"
	m := &XattrMap{rules: rules}
	var buf [maxName + 1]byte
	if n, e := m.host(&buf, []byte(capability), xattrSet); e == 0 && string(buf[:n]) != capability {
		m.capability = append(bytes.Clone(buf[:n]), 0)
	}
	return m
}

// An xattrUse is what is to be done with an attribute of the guest.
type xattrUse int

const (
	xattrSet xattrUse = iota
	xattrGet
	xattrRemove
)

// host stores in buf what a name of the guest is on the host, and returns its length.
func (m *XattrMap) host(buf *[maxName + 1]byte, name []byte, use xattrUse) (int, syscall.Errno) {
	for i := range m.rules {
		r := &m.rules[i]
		if !r.client || !hasPrefix(name, r.key) {
			continue
		}
		switch {
		case r.action == xattrOK:
			return copy(buf[:], name), 0
		case r.action == xattrUnsupported:
			return 0, unix.ENOTSUP
		case r.action == xattrBad && use != xattrGet, r.action == xattrAbsent && use == xattrSet:
			return 0, unix.EPERM
		case r.action != xattrPrefix:
			return 0, unix.ENODATA
		case len(r.prepend)+len(name) > maxXattrName:
			return 0, unix.ERANGE
		}
		n := copy(buf[:], r.prepend)
		return n + copy(buf[n:], name), 0
	}
	return 0, unix.EPERM
}

// guest returns what a name of the host is to the guest, or nil if there is no such
// attribute. The result is part of name.
func (m *XattrMap) guest(name []byte) []byte {
	for i := range m.rules {
		r := &m.rules[i]
		if !r.server || !hasPrefix(name, r.prepend) {
			continue
		}
		switch r.action {
		case xattrOK:
			return name
		case xattrPrefix:
			return name[len(r.prepend):]
		default:
			return nil
		}
	}
	return nil
}

func hasPrefix(name []byte, prefix string) bool {
	return len(name) >= len(prefix) && string(name[:len(prefix)]) == prefix
}

// loseCapability removes the capabilities that a change of the content or the owner of a
// file ends. The kernel does so itself unless they have another name.
func (fs *FS) loseCapability(t *thread, fd int) {
	if m := fs.opt.XattrMap; m != nil && m.capability != nil && fs.opt.XAttr {
		removexattr(t.link(fd), &m.capability[0]) // there may be none
	}
}
