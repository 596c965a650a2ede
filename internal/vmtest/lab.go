package vmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// A MissingError says what a VM test needs and the machine lacks, and how to get it.
type MissingError struct {
	Feature string // what is missing
	Need    string // what to do about it
}

// Error names the missing thing and the remedy.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is missing: %s", e.Feature, e.Need)
}

// A Lab is the programs and kernels that scripts/lab has fetched.
type Lab struct {
	Dir              string
	QEMU             string // program
	QEMUVersion      string
	Busybox          string // static program, for the demo's guest
	Virtiofsd        string // program, "" in a minimal lab
	VirtiofsdVersion string
	Mke2fs           string   // program, "" in a minimal lab
	Libvirt          string   // root of a tree with libvirt and its QEMU, "" unless fetched
	Kernels          []Kernel // oldest first

	accel struct {
		once sync.Once
		name string
	}
}

// A Kernel is one guest kernel of the lab.
type Kernel struct {
	Series  string // "6.12", "7"
	Release string // as uname -r prints it
	Image   string // ELF kernel, or bzImage where that could not be extracted
	Modules string // directory, as in /lib/modules/RELEASE
}

// FindLab reads the lab of this machine. Its place is $VFIOFS_LAB, or vfiofs/lab in
// the user's cache directory. The error is a *MissingError if there is no lab.
func FindLab() (*Lab, error) {
	dir := os.Getenv("VFIOFS_LAB")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, &MissingError{"the lab", "set VFIOFS_LAB to its directory (" + err.Error() + ")"}
		}
		dir = filepath.Join(cache, "vfiofs", "lab")
	}
	return openLab(dir)
}

func openLab(dir string) (*Lab, error) {
	b, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &MissingError{"the lab in " + dir, "run scripts/lab"}
	}
	if err != nil {
		return nil, err
	}
	l := &Lab{Dir: dir}
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("lab.json in %s: %w (run scripts/lab --update)", dir, err)
	}
	paths := []*string{&l.QEMU, &l.Busybox}
	for _, p := range []*string{&l.Virtiofsd, &l.Mke2fs, &l.Libvirt} {
		if *p != "" {
			paths = append(paths, p)
		}
	}
	for i := range l.Kernels {
		paths = append(paths, &l.Kernels[i].Image, &l.Kernels[i].Modules)
	}
	for _, p := range paths {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
		if _, err := os.Stat(*p); err != nil {
			return nil, &MissingError{"a part of the lab (" + err.Error() + ")", "run scripts/lab --update"}
		}
	}
	if len(l.Kernels) == 0 {
		return nil, &MissingError{"a kernel in " + dir, "run scripts/lab"}
	}
	return l, nil
}

// Ext4 makes an image of an empty ext4 file system, most of it a hole.
func (l *Lab) Ext4(image, size string) error {
	if l.Mke2fs == "" {
		return &MissingError{"mke2fs", "run scripts/lab"}
	}
	if msg, err := exec.Command(l.Mke2fs, "-q", "-t", "ext4", image, size).CombinedOutput(); err != nil {
		return fmt.Errorf("make %s: %w\n%s", image, err, msg)
	}
	return nil
}

// Kernel returns the kernel of a series, such as "6.12" or "7".
func (l *Lab) Kernel(series string) (Kernel, error) {
	for _, k := range l.Kernels {
		if k.Series == series {
			return k, nil
		}
	}
	return Kernel{}, &MissingError{"Linux " + series + " in " + l.Dir, "run scripts/lab"}
}

// module finds a module's file. A module that the kernel has built in has none, and
// the result is "".
func (k Kernel) module(name string) (string, error) {
	name = strings.ReplaceAll(name, "-", "_")
	var file string
	err := filepath.WalkDir(k.Modules, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base, _, isModule := strings.Cut(d.Name(), ".ko")
		if isModule && strings.ReplaceAll(base, "-", "_") == name {
			file = path
			return fs.SkipAll
		}
		return nil
	})
	if err != nil || file != "" {
		return file, err
	}
	builtin, err := os.ReadFile(filepath.Join(k.Modules, "modules.builtin"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(builtin)) {
		base := strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko")
		if strings.ReplaceAll(base, "-", "_") == name {
			return "", nil
		}
	}
	return "", fmt.Errorf("linux %s has no module %s", k.Release, name)
}
