package structure

// Rules are the tables that Check applies. Packages are directories from the root of
// the tree.
type Rules struct {
	// Module is the module's path.
	Module string
	// Imports are the packages of the module that a package may import, outside of
	// its tests. "*" stands for all.
	Imports map[string][]string
	// ThirdParty are the packages from other modules that a package may import,
	// outside of its tests; "*" is the line for all packages. A line ends in "/..." to
	// allow what is below too.
	ThirdParty map[string][]string
	// TestThirdParty are those that tests may import beside.
	TestThirdParty []string
	// Unsafe are the packages that may have _unsafe.go files.
	Unsafe []string
	// MaxLines and MaxTestLines limit the length of Go files.
	MaxLines, MaxTestLines int
	// Exceptions maps "rule subject" to the reason. The rules are: edge, unsafe, call,
	// init, state, sleep, length, name, doc, path.
	Exceptions map[string]string
}

// Repository returns the rules of this repository.
func Repository() Rules {
	return Rules{
		Module: "vfiofs",
		Imports: map[string][]string{
			"cmd/vfiofs": {"*"},

			"fuse":             {"virtio/guestmem"},
			"fuse/fusetest":    {"fuse", "virtio/guestmem"},
			"fuse/devfuse":     {"fuse", "internal/fsclient", "internal/fd"},
			"passthrough":      {"fuse", "virtio/guestmem", "internal/fd"},
			"pci":              {},
			"pci/pcitest":      {"pci"},
			"vfio":             {"pci", "internal/fd"},
			"vfio/vfiotest":    {"vfio", "pci", "internal/fd"},
			"vfio/vfiouser":    {"vfio", "virtio/guestmem", "internal/fd", "internal/unixsock"},
			"virtio":           {"virtio/virtq"},
			"virtio/guestmem":  {},
			"virtio/virtq":     {"virtio/guestmem"},
			"virtio/vhostuser": {"virtio", "virtio/virtq", "virtio/guestmem", "internal/fd", "internal/unixsock"},
			"virtio/virtiofs":  {"virtio", "virtio/virtq", "virtio/guestmem", "fuse", "internal/fd"},
			"virtio/virtiopci": {"virtio", "virtio/virtq", "pci", "vfio"},
			"virtio/vvu":       {"virtio/vhostuser", "virtio/virtiopci", "virtio/virtq", "virtio/guestmem", "vfio", "pci", "internal/fd"},
			"virtio/vvu/proxy": {"virtio/vhostuser", "virtio/virtiopci", "virtio/virtq", "virtio/guestmem", "vfio", "vfio/vfiouser", "pci", "internal/fd"},

			"fuse/devfuse/mounttest": {"internal/vmtest"},
			"virtio/virtq/virtqtest": {"virtio/virtq", "virtio/guestmem"},

			"internal/bench":            {"internal/fsclient", "fuse", "virtio/vhostuser", "virtio/virtq", "virtio/guestmem", "internal/fd"},
			"internal/fd":               {},
			"internal/fsclient":         {"virtio", "virtio/vhostuser", "virtio/virtq", "virtio/guestmem", "internal/fd", "internal/unixsock"},
			"internal/idmap":            {},
			"internal/jail":             {"internal/idmap"},
			"internal/posix":            {},
			"internal/launchers":        {},
			"internal/structure":        {},
			"internal/syslog":           {},
			"internal/testkit":          {"internal/fd"},
			"internal/unixsock":         {"internal/fd"},
			"internal/vmtest":           {"internal/vmtest/plan"},
			"internal/vmtest/demo":      {"internal/vmtest", "internal/vmtest/plan"},
			"internal/vmtest/guestinit": {"internal/vmtest/plan"},
			"internal/vmtest/guesttest": {},
			"internal/vmtest/plan":      {},
			"internal/workload":         {},
		},
		ThirdParty: map[string][]string{
			"*":          {"golang.org/x/sys/unix"},
			"cmd/vfiofs": {"github.com/alecthomas/kong", "github.com/coreos/go-systemd/v22/daemon"},
			"pci":        {"github.com/u-root/u-root/pkg/pci"},
		},
		TestThirdParty: []string{
			"github.com/google/go-cmp/...",
			"github.com/hanwen/go-fuse/v2/...",
			"github.com/rogpeppe/go-internal/testscript",
			"github.com/u-root/u-root/...",
		},
		Unsafe: []string{
			"vfio", "vfio/vfiouser", "virtio/guestmem", "virtio/virtq", "virtio/virtq/virtqtest", "fuse", "passthrough", "internal/jail", "internal/posix",
		},
		MaxLines:     600,
		MaxTestLines: 900,
		Exceptions: map[string]string{
			"state internal/fd/fd.go open":            "the registry behind the leak report of tests; sync.Map is its own lock",
			"state internal/bench/lane.go le":         "a name for binary.LittleEndian, a value without state",
			"state fuse/devfuse/request.go le":        "a name for binary.LittleEndian, a value without state",
			"state virtio/virtq/layout.go le":         "a name for binary.LittleEndian, a value without state",
			"state virtio/virtq/virtqtest/ring.go le": "a name for binary.LittleEndian, a value without state",
		},
	}
}
