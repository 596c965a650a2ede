package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"vfiofs/pci"
	"vfiofs/vfio"
	"vfiofs/vfio/vfiouser"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/vvu"
)

// A source is where clients come from: a socket, or a PCI function.
type source interface {
	// Accept waits for a client. The one before has left.
	Accept(ctx context.Context) (vhostuser.Link, error)
	Close() error
}

// open opens what the command line names; rings is how many the device has. ctx ends
// the attempt, and later makes room for a successor.
func (s *Serve) open(ctx context.Context, rings int, log *slog.Logger) (source, error) {
	if s.VFIO != "" {
		return s.openFunction(ctx, rings, log)
	}
	if s.FD != nil {
		return openFD(*s.FD)
	}
	return s.openSocket(ctx)
}

// openFunction takes the function into use that --vfio names.
func (s *Serve) openFunction(ctx context.Context, rings int, log *slog.Logger) (_ source, err error) {
	var dev vfio.Device
	if strings.Contains(s.VFIO, "/") {
		dev, err = vfiouser.Dial(ctx, s.VFIO)
	} else {
		var addr pci.Address
		if addr, err = pci.ParseAddress(s.VFIO); err == nil {
			dev, err = vfio.Open(addr, vfio.Options{Log: log})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", s.VFIO, err)
	}
	driver, err := vvu.Open(ctx, dev, vvu.Options{Rings: rings, MemRule: s.VVUMemRule, Log: log})
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("cannot use %s: %w", s.VFIO, err)
	}
	return &function{driver, dev}, nil
}

// A function is a PCI function as a source.
type function struct {
	*vvu.Driver
	dev vfio.Device
}

// Close implements source. The function is ready for the next driver.
func (f *function) Close() error { return errors.Join(f.Driver.Close(), f.dev.Close()) }

// isFunction reports whether text can be the value of --vfio.
func isFunction(text string) bool {
	if strings.Contains(text, "/") {
		return true
	}
	_, err := pci.ParseAddress(text)
	return err == nil
}
