package vfio

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// A MissingError says what the machine lacks, and what to do about it. Tests use it to
// tell what can't be tested here from what is broken.
type MissingError struct {
	Feature string // what is missing: "an IOMMU group of 0000:00:07.0"
	Need    string // the remedy, in the imperative
	Err     error  // what the kernel said; may be nil
}

// Error names what is missing, the cause and the remedy.
func (e *MissingError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("missing %s (%s)", e.Feature, e.Need)
	}
	return fmt.Sprintf("missing %s: %v (%s)", e.Feature, e.Err, e.Need)
}

// Unwrap returns what the kernel said.
func (e *MissingError) Unwrap() error { return e.Err }

// openError explains why a file of /dev can't be opened. need says how to make a file
// that isn't there.
func openError(path string, err error, need string) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return &MissingError{Feature: path, Need: need, Err: err}
	case errors.Is(err, fs.ErrPermission):
		return &MissingError{
			Feature: "permission to open " + path,
			Need:    "run as root, or make the user its owner: chown USER " + path,
			Err:     err,
		}
	case errors.Is(err, unix.EBUSY):
		return &MissingError{
			Feature: "exclusive use of " + path,
			Need:    "end the other process that drives a function of this group",
			Err:     err,
		}
	}
	return err
}

// mapError explains why memory can't be mapped for DMA.
func mapError(size uint64, err error) error {
	switch {
	case errors.Is(err, unix.ENOMEM):
		return memlockError(size, err)
	case errors.Is(err, unix.ENOSPC):
		return &MissingError{
			Feature: "a free DMA mapping",
			Need:    "use fewer mappings, or raise the parameter dma_entry_limit of vfio_iommu_type1",
			Err:     err,
		}
	}
	return err
}

// vectorError says that the kernel could give us fewer interrupts than wanted.
func vectorError(want int, err error) error {
	return &MissingError{
		Feature: fmt.Sprintf("%d free interrupt vectors", want),
		Need:    "use fewer rings, or give the machine more CPUs (a virtual one: or eim=on for its IOMMU)",
		Err:     err,
	}
}

// remappingError says that nothing keeps the function from raising interrupts that
// aren't its own, and how to accept that.
func remappingError(module string, err error) error {
	return &MissingError{
		Feature: "interrupt remapping",
		Need: "switch it on in the IOMMU, or trust the function not to forge interrupts: " +
			"echo 1 > /sys/module/" + module + "/parameters/allow_unsafe_interrupts",
		Err: err,
	}
}
