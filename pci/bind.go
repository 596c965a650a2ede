package pci

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// previous is what a function had before Bind. It is kept as a file per function in
// Sysfs.State.
type previous struct {
	Driver   string `json:"driver"`          // "" if none was bound
	Override string `json:"driver_override"` // "" if none was set
}

// PlanBind returns what Bind would write; nothing if the driver is bound already. The
// error says what is in the way.
func (s Sysfs) PlanBind(a Address, driver string) ([]Step, error) {
	f, err := s.Function(a)
	if err != nil {
		return nil, err
	}
	switch {
	case f.Driver == driver:
		return nil, nil
	case f.Bridge:
		return nil, fmt.Errorf("PCI function %v: a bridge can't be given to user space", a)
	case f.Group == noGroup && IsVFIO(driver) && !s.UnsafeNoIOMMU():
		return nil, noIOMMU(a)
	case !s.HasDriver(driver):
		return nil, fmt.Errorf("PCI function %v: there is no driver %s (load it: modprobe %s)", a, driver, driver)
	}
	return s.steps(f, driver, driver), nil
}

// steps move f to a driver, and set driver_override to override in the end. The
// driver "" means that none binds; "*" leaves the choice to the kernel.
func (s Sysfs) steps(f Function, driver, override string) []Step {
	dir := s.device(f.Address)
	if f.Driver == driver {
		if override == f.Override {
			return nil
		}
		return []Step{{dir + "/driver_override", override}}
	}
	during := driver // keeps every other driver away
	if driver == "" || driver == anyDriver {
		during = override
	}
	var steps []Step
	if during != f.Override {
		steps = append(steps, Step{dir + "/driver_override", during})
	}
	if f.Driver != "" {
		steps = append(steps, Step{dir + "/driver/unbind", f.Address.String()})
	}
	if driver != "" {
		steps = append(steps, Step{s.path("bus/pci/drivers_probe"), f.Address.String()})
	}
	if override != during {
		steps = append(steps, Step{dir + "/driver_override", override})
	}
	return steps
}

// anyDriver stands for whatever driver the kernel finds.
const anyDriver = "*"

// Bind gives a function to a driver, away from the one that has it, which is
// remembered for Unbind. It does nothing if the driver is bound already. If it fails, it
// puts back what was before as far as it can.
//
// It never adds ids to a driver, which would take other functions as well: it sets
// driver_override and asks the kernel to probe.
func (s Sysfs) Bind(a Address, driver string) error {
	steps, err := s.PlanBind(a, driver)
	if err != nil || len(steps) == 0 {
		return err
	}
	before, err := s.Function(a)
	if err != nil {
		return err
	}
	native := !IsVFIO(before.Driver) // else it is remembered already, if we bound it
	if native {
		if err := s.remember(a, previous{before.Driver, before.Override}); err != nil {
			return err
		}
	}
	if err = s.run(a, steps, driver); err == nil {
		return nil
	}
	if err2 := s.putBack(before); err2 != nil {
		return fmt.Errorf("%w; putting back what was before failed too: %w", err, err2)
	}
	if native {
		err = errors.Join(err, s.forget(a))
	}
	return err
}

// putBack gives a function the driver and the override that it had.
func (s Sysfs) putBack(before Function) error {
	now, err := s.Function(before.Address)
	if err != nil {
		return err
	}
	return s.run(before.Address, s.steps(now, before.Driver, before.Override), before.Driver)
}

// run does the steps and looks whether driver is bound then.
func (s Sysfs) run(a Address, steps []Step, driver string) error {
	for _, step := range steps {
		if err := s.write(step); err != nil {
			return fmt.Errorf("PCI function %v: %w", a, err)
		}
	}
	if driver == anyDriver {
		return nil
	}
	now, err := s.Function(a)
	if err != nil {
		return err
	}
	if now.Driver != driver {
		return fmt.Errorf("PCI function %v: driver %s didn't take it, it has %s (the kernel log says why: dmesg)",
			a, cmp.Or(driver, "none"), cmp.Or(now.Driver, "none"))
	}
	return nil
}

// PlanUnbind returns what Unbind would write; nothing if no VFIO driver is bound.
func (s Sysfs) PlanUnbind(a Address) ([]Step, error) {
	steps, _, err := s.planUnbind(a)
	return steps, err
}

func (s Sysfs) planUnbind(a Address) (steps []Step, driver string, err error) {
	f, err := s.Function(a)
	if err != nil || !IsVFIO(f.Driver) {
		return nil, "", err
	}
	p, known, err := s.recall(a)
	if err != nil {
		return nil, "", err
	}
	switch {
	case !known:
		p.Driver = anyDriver
	case p.Driver != "" && !s.HasDriver(p.Driver):
		return nil, "", fmt.Errorf("PCI function %v: its former driver %s isn't there any more (load it: modprobe %s)", a, p.Driver, p.Driver)
	}
	return s.steps(f, p.Driver, p.Override), p.Driver, nil
}

// Unbind takes a function from its VFIO driver, and gives it back to the driver that it
// had before Bind; if another program bound it, the kernel chooses. It does nothing if
// no VFIO driver is bound.
//
// The kernel waits in it until nobody has the function open.
func (s Sysfs) Unbind(a Address) error {
	steps, driver, err := s.planUnbind(a)
	if err != nil {
		return err
	}
	if len(steps) > 0 {
		if err := s.run(a, steps, driver); err != nil {
			return err
		}
	}
	return s.forget(a)
}

// Previous returns the driver that Unbind would give the function back to; ok is false
// if Bind has not remembered one.
func (s Sysfs) Previous(a Address) (driver string, ok bool, err error) {
	p, ok, err := s.recall(a)
	return p.Driver, ok, err
}

func (s Sysfs) statePath(a Address) string {
	return filepath.Join(cmp.Or(s.State, "/run/vfiofs"), a.String())
}

func (s Sysfs) remember(a Address, p previous) error {
	text, err := json.Marshal(p)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(s.statePath(a)), 0o755)
	}
	if err == nil {
		err = os.WriteFile(s.statePath(a), append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("remember the driver of PCI function %v: %w", a, err)
	}
	return nil
}

func (s Sysfs) recall(a Address) (p previous, ok bool, err error) {
	text, err := os.ReadFile(s.statePath(a))
	if errors.Is(err, os.ErrNotExist) {
		return previous{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return previous{}, false, fmt.Errorf("recall the former driver of PCI function %v from %s: %w", a, s.statePath(a), err)
	}
	return p, true, nil
}

func (s Sysfs) forget(a Address) error {
	if err := os.Remove(s.statePath(a)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget the former driver of PCI function %v: %w", a, err)
	}
	return nil
}
