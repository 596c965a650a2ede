package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/pci"
)

// What is enough.
const (
	enoughMemlock = 8 << 20 // bytes that the rings and buffers of a driver may pin, amply
	qemuPatience  = 10 * time.Second
)

// checkKernel looks at the kernel and at what it lets us do.
func (d *Doctor) checkKernel() []finding {
	var uts unix.Utsname
	release := "unknown"
	if unix.Uname(&uts) == nil {
		release = unix.ByteSliceToString(uts.Release[:])
	}
	f := []finding{{Name: "kernel", OK: true, Detail: "Linux " + release}}

	_, err := os.Stat(d.path("/proc/self/fd"))
	f = append(f, result("/proc", err, "mounted",
		"mount proc on /proc: files are reopened through it", forSocket, forVFIO, forVFIOUser))

	n, err := unix.Openat2(unix.AT_FDCWD, ".", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err == nil {
		unix.Close(n)
	}
	f = append(f, result("openat2", err, "lookups stay within the share in one call",
		"run Linux 5.6 or newer, or let the container's seccomp filter pass it"))

	var st unix.Statx_t
	err = unix.Statx(unix.AT_FDCWD, ".", 0, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st)
	f = append(f, result("statx", err, "attributes", "run Linux 4.11 or newer, or let the container's seccomp filter pass it",
		forSocket, forVFIO, forVFIOUser))
	if err == nil && st.Mask&unix.STATX_MNT_ID == 0 {
		err = errors.New("not reported by this kernel")
	}
	f = append(f, result("mount ids", err, "mounts inside the share are told apart", "run Linux 5.8 or newer"))
	f = append(f, result("RWF_NOWAIT", probeNowait(), "cached reads are served at once",
		"run Linux 4.14 or newer, on a file system that knows it (ext4, xfs, btrfs, tmpfs do)"))
	return f
}

// probeNowait reads from this program's file as cached reads of a share are read.
func probeNowait() error {
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = unix.Preadv2(int(file.Fd()), [][]byte{make([]byte, 16)}, 0, unix.RWF_NOWAIT)
	if err == unix.EAGAIN { // known, and not cached just now
		return nil
	}
	return err
}

// checkLimits looks at who we are and what we may use up.
func (d *Doctor) checkLimits() []finding {
	root := finding{
		Name: "root", OK: os.Geteuid() == 0, Detail: fmt.Sprintf("user %d", os.Geteuid()),
		Fix: "run vfiofs as root, or with id maps, so that new files get their owners in the guest; \"vfio bind\" needs it too",
	}
	f := []finding{root}

	var files unix.Rlimit
	highest, err := readNrOpen(d.path("/proc/sys/fs/nr_open"))
	if err == nil {
		err = unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
	}
	if want := min(defaultFiles, highest); err == nil && files.Max < want && !root.OK {
		err = fmt.Errorf("the hard limit is %d; %d suffice for any tree", files.Max, want)
	}
	f = append(f, result("open files", err, fmt.Sprintf("hard limit %d, raised as far as needed", files.Max),
		"raise it: LimitNOFILE=1000000 in a systemd unit, or ulimit -Hn 1000000"))

	var memlock unix.Rlimit
	err = unix.Getrlimit(unix.RLIMIT_MEMLOCK, &memlock)
	if err == nil && memlock.Cur < enoughMemlock && !root.OK {
		err = fmt.Errorf("%s may be locked; the rings of the driver need up to %s", bytesText(memlock.Cur), bytesText(enoughMemlock))
	}
	detail := "any amount may be locked"
	if !root.OK && memlock.Cur != unix.RLIM_INFINITY {
		detail = bytesText(memlock.Cur) + " may be locked"
	}
	return append(f, result("memlock", err, detail, "raise it: LimitMEMLOCK=8M in a systemd unit, or ulimit -l 8192", forVFIO))
}

// checkMemory looks at where shared memory can be.
func (d *Doctor) checkMemory() []finding {
	n, err := unix.MemfdCreate("vfiofs-doctor", unix.MFD_CLOEXEC)
	if err == nil {
		unix.Close(n)
	}
	f := []finding{result("memfd", err, "memory files can be made", "let the container's seccomp filter pass memfd_create", forVFIO, forVFIOUser, forProxy)}

	var shm unix.Statfs_t
	err = unix.Statfs(d.path("/dev/shm"), &shm)
	f = append(f, result("/dev/shm", err, bytesText(shm.Bavail*uint64(shm.Bsize)>>20<<20)+" free, for the memory of virtual machines",
		"mount a tmpfs on /dev/shm, or keep the memory file elsewhere"))

	pages := uint64(0)
	text, err := os.ReadFile(d.path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"))
	if err == nil {
		pages, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	}
	if err == nil && pages == 0 {
		err = errors.New("none is free")
	}
	return append(f, result("huge pages", err, fmt.Sprintf("%s free in pages of 2 MiB", bytesText(pages<<21)),
		"echo 2048 > /proc/sys/vm/nr_hugepages makes 4 GiB of virtual machine memory faster"))
}

// checkVFIO looks at what it takes to drive a PCI function.
func (d *Doctor) checkVFIO(sysfs pci.Sysfs) []finding {
	return []finding{d.checkIOMMU(sysfs), d.checkDriver(sysfs), d.checkContainer(), d.checkFunctions(sysfs)}
}

func (d *Doctor) checkIOMMU(sysfs pci.Sysfs) finding {
	units := names(d.path("/sys/class/iommu"))
	groups := names(d.path("/sys/kernel/iommu_groups"))
	detail := fmt.Sprintf("%s, %d groups", strings.Join(units, " "), len(groups))
	var err error
	if len(groups) == 0 {
		err = errors.New("no IOMMU groups")
		if sysfs.UnsafeNoIOMMU() {
			err, detail = nil, "none, and VFIO may do without: a device can then write to all memory"
		}
	}
	return result("IOMMU", err, detail,
		"switch on VT-d or AMD-Vi in the firmware and boot with intel_iommu=on; give a virtual machine -device intel-iommu,caching-mode=on", forVFIO)
}

// vfioModules are what a machine needs to drive PCI functions from user space.
var vfioModules = []string{"vfio", "vfio_iommu_type1", "vfio_pci"}

func (d *Doctor) checkDriver(sysfs pci.Sysfs) finding {
	var err error
	switch {
	case sysfs.HasDriver(vfioDriver):
	case d.moduleExists("vfio-pci"):
		err = errors.New("there, but not loaded")
	default:
		err = errors.New("not among the modules of this kernel")
	}
	loaded := []string{}
	for _, name := range vfioModules {
		if _, err := os.Stat(d.path("/sys/module/" + name)); err == nil {
			loaded = append(loaded, name)
		}
	}
	detail := "loaded: " + strings.Join(loaded, " ")
	return result(vfioDriver, err, detail, "modprobe vfio-pci (a kernel built without CONFIG_VFIO_PCI can't)", forVFIO)
}

// moduleExists looks for a module on disk.
func (d *Doctor) moduleExists(name string) bool {
	var uts unix.Utsname
	if unix.Uname(&uts) != nil {
		return false
	}
	text, err := os.ReadFile(d.path("/lib/modules/" + unix.ByteSliceToString(uts.Release[:]) + "/modules.dep"))
	return err == nil && strings.Contains(string(text), "/"+name+".ko")
}

func (d *Doctor) checkContainer() finding {
	var failed error
	for _, name := range []string{"/dev/vfio/vfio", "/dev/iommu"} {
		file, err := os.OpenFile(d.path(name), os.O_RDWR|unix.O_NONBLOCK, 0)
		if err == nil {
			file.Close()
			return result("/dev/vfio", nil, name+" can be opened", "", forVFIO)
		}
		failed = cmp.Or(failed, err)
	}
	return result("/dev/vfio", failed, "", "modprobe vfio_iommu_type1; as another user than root, also chown USER /dev/vfio/GROUP", forVFIO)
}

// checkFunctions looks for functions to drive.
func (d *Doctor) checkFunctions(sysfs pci.Sysfs) finding {
	list, err := sysfs.List()
	var texts []string
	ready := false
	for _, f := range list {
		if vvuNames[id(f)] == "" {
			continue
		}
		r, inspectErr := d.inspect(sysfs, f)
		err = cmp.Or(err, inspectErr)
		texts = append(texts, fmt.Sprintf("%v: %s", f.Address, r.State))
		ready = ready || r.State == stateReady
	}
	slices.Sort(texts)
	fix := "give this virtual machine one: \"vfiofs proxy --help\" says how"
	switch {
	case err != nil || ready:
	case len(texts) == 0:
		err = errors.New("no virtio-vhost-user function")
	default:
		err = errors.New(strings.Join(texts, ", "))
		fix = "\"vfiofs vfio status\" says what keeps them from being used, \"vfiofs vfio bind ADDR\" gives one to VFIO"
	}
	return result("functions", err, strings.Join(texts, ", "), fix, forVFIO)
}

// checkVMs looks at what runs virtual machines, which vfiofs itself doesn't need.
func (d *Doctor) checkVMs(ctx context.Context) []finding {
	f, err := os.OpenFile(d.path("/dev/kvm"), os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	kvm := result("/dev/kvm", err, "can be opened", "load kvm_intel or kvm_amd, and join the group kvm; without it virtual machines are emulated, slowly")

	ctx, cancel := context.WithTimeout(ctx, qemuPatience)
	defer cancel()
	path, err := exec.LookPath(map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}[runtime.GOARCH])
	var text []byte
	if err == nil {
		text, err = exec.CommandContext(ctx, path, "-device", "help").CombinedOutput()
	}
	if err == nil && !strings.Contains(string(text), `"vfio-user-pci"`) {
		err = fmt.Errorf("%s has no device vfio-user-pci", path)
	}
	qemu := result("QEMU", err, path+" knows vfio-user-pci", "install QEMU 10.1 or newer, built with vfio-user", forVMs)
	return []finding{kvm, qemu}
}

// result makes a finding of an error or, without one, of detail.
func result(name string, err error, detail, fix string, needed ...purpose) finding {
	f := finding{Name: name, OK: err == nil, Detail: detail, For: append([]purpose{}, needed...)}
	if err != nil {
		f.Detail, f.Fix = err.Error(), fix
	}
	return f
}

// names lists a directory; one that can't be read is empty.
func names(dir string) []string {
	paths, _ := filepath.Glob(filepath.Join(dir, "*"))
	for i, path := range paths {
		paths[i] = filepath.Base(path)
	}
	return paths
}
