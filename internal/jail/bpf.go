package jail

import "golang.org/x/sys/unix"

// What seccomp shows a filter (linux/seccomp.h: struct seccomp_data); offsets in bytes.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16 // eight bytes each, of which the lower four come first
)

// The instructions that filters need (linux/bpf_common.h).
const (
	bpfLoad  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	bpfAnd   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	bpfEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	bpfRet   = unix.BPF_RET | unix.BPF_K
)

// assemble returns the filter that carries out rules in their order, and gives the
// verdict otherwise to all other calls. Calls of another architecture, or of x32 with its
// numbers from 1<<30 on, are among those.
//
// The number decides alone wherever a rule has no condition: Linux 5.11 and later then
// keep the answer and run no filter at all (linux kernel/seccomp.c:
// seccomp_cache_check_allow).
func assemble(rules []rule, otherwise uint32) []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter { return unix.SockFilter{Code: bpfLoad, K: offset} }
	ret := func(verdict uint32) unix.SockFilter { return unix.SockFilter{Code: bpfRet, K: verdict} }
	equal := func(k uint32, skipIfNot int) unix.SockFilter {
		return unix.SockFilter{Code: bpfEqual, K: k, Jf: uint8(skipIfNot)}
	}

	filter := []unix.SockFilter{load(offArch), {Code: bpfEqual, K: auditArch, Jt: 1}, ret(otherwise), load(offNumber)}
	for _, r := range rules {
		body := []unix.SockFilter{ret(r.verdict())}
		if r.values != nil {
			body = []unix.SockFilter{load(offArgs + 8*uint32(r.arg)), {Code: bpfAnd, K: r.mask}}
			for _, v := range r.values {
				body = append(body, equal(v, 1), ret(r.verdict()))
			}
			body = append(body, load(offNumber)) // for the rules that follow
		}
		filter = append(append(filter, equal(r.nr, len(body))), body...)
	}
	return append(filter, ret(otherwise))
}
