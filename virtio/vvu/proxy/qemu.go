package proxy

import (
	"encoding/json"
	"fmt"
	"strings"
)

// QEMUArgs returns the arguments by which QEMU makes the file the RAM of a sibling.
func (m *Memory) QEMUArgs() string {
	return fmt.Sprintf("-m %s -object memory-backend-file,id=mem,size=%s,mem-path=%s,share=on -machine q35,memory-backend=mem",
		sizeName(m.size), sizeName(m.size), quote(comma(m.path)))
}

// SiblingArgs returns the arguments for the QEMU of a sibling, which connects to the
// vhost-user socket and sees a share named tag.
func (m *Memory) SiblingArgs(socket, tag string) string {
	return fmt.Sprintf("%s -chardev socket,id=vfiofs,path=%s -device vhost-user-fs-pci,chardev=vfiofs,tag=%s",
		m.QEMUArgs(), quote(comma(socket)), quote(comma(tag)))
}

// DeviceVMArgs returns the arguments for the QEMU of the device VM, which connects to the
// vfio-user socket. Its memory must be shared, and the IOMMU comes before what it covers.
// With KVM the IOMMU remaps interrupts, without which VFIO refuses to work, only if it is
// QEMU that has the I/O APIC (kernel-irqchip=split).
func DeviceVMArgs(socket string) string {
	type address struct {
		Type string `json:"type"`
		Path string `json:"path"`
	}
	device, err := json.Marshal(struct {
		Driver string  `json:"driver"`
		Socket address `json:"socket"`
		Addr   string  `json:"addr"`
	}{"vfio-user-pci", address{"unix", socket}, "07.0"})
	if err != nil {
		panic(err) // strings can't fail
	}
	return "-m 1G -object memory-backend-memfd,id=mem,size=1G,share=on -machine q35,memory-backend=mem,kernel-irqchip=split" +
		" -device intel-iommu,caching-mode=on -device " + quote(string(device))
}

// comma doubles commas, which end a value in QEMU's options.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// quote quotes an argument for the shell, if it has to be.
func quote(s string) string {
	plain := strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./_-", r))
	}) < 0
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// sizeName writes a size with the largest suffix that fits.
func sizeName(n int64) string {
	for _, s := range []struct {
		unit int64
		name string
	}{{1 << 30, "G"}, {1 << 20, "M"}, {1 << 10, "K"}} {
		if n%s.unit == 0 {
			return fmt.Sprintf("%d%s", n/s.unit, s.name)
		}
	}
	return fmt.Sprint(n)
}
