package proxy

import (
	"errors"

	"vfiofs/virtio/virtiopci"
)

// A state is where the device is in its life (virtio-vhost-user.md 8.9). All have a way
// back to stateReset.
type state int

// States.
const (
	stateReset  state = iota // not DRIVER_OK
	stateReady               // DRIVER_OK, BACKEND_UP is 0
	stateWait                // BACKEND_UP is 1, no sibling
	stateConn                // both are up
	stateFailed              // NEEDS_RESET
)

// statusChanged is called when the driver has set bits of the device status.
func (d *Device) statusChanged(from, to virtiopci.Status) {
	if to&^from&virtiopci.DriverOK == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != stateReset || d.bus == nil || d.closed {
		return
	}
	if err := d.activate(); err != nil {
		d.fail(err)
		return
	}
	d.log.Info("driver is ready", "features", d.block.Features())
	d.state = stateReady
	if d.status&backendUp != 0 {
		d.state = stateWait
	}
	d.changed.Broadcast()
}

// activate starts the rings.
func (d *Device) activate() (err error) {
	if !d.busMaster() {
		return errors.New("bus mastering is off")
	}
	if d.rx, err = d.startRing(rxQueue); err != nil {
		return err
	}
	d.tx, err = d.startRing(txQueue)
	return err
}

// arm is BACKEND_UP set.
func (d *Device) arm() {
	switch d.state {
	case stateReset:
		d.status = backendUp // remembered until DRIVER_OK
	case stateReady:
		d.status = backendUp
		d.state = stateWait
		d.changed.Broadcast()
	}
}

// disarm is BACKEND_UP cleared.
func (d *Device) disarm() {
	switch d.state {
	case stateReset:
		d.status = 0
	case stateWait, stateConn:
		d.disconnect(reasonAsked)
		if d.state == stateFailed {
			return // the transmit ring is broken
		}
		d.status = 0
		d.state = stateReady
	}
}

// connect begins to serve a sibling. The driver learns of it before the first message.
func (d *Device) connect(s *sibling) {
	d.discard()
	if d.state == stateFailed {
		return // as above
	}
	d.serial++
	s.serial = d.serial
	if err := d.kicks.addSibling(s.conn, s.serial); err != nil {
		d.log.Warn("the end of a connection may be noticed late", "err", err)
	}
	d.peer = s
	d.state = stateConn
	d.status = backendUp | frontendUp
	d.configChanged()
	d.changed.Broadcast()
}

// left ends the connection to s for a reason that is the sibling's, unless it has ended
// already. The driver has to ask for the next.
func (d *Device) left(s *sibling, why reason) {
	if d.peer != s {
		return
	}
	d.disconnect(why)
	if d.state == stateFailed {
		return // as above
	}
	d.status = 0
	d.state = stateReady
	d.configChanged()
	if d.opt.Profile == Crosvm && d.pending(d.rx) {
		d.deliver(nil)
	}
}

// disconnect forgets all that a sibling has given, if there is one.
func (d *Device) disconnect(why reason) {
	s := d.peer
	if s == nil {
		return
	}
	d.peer = nil
	d.reason = why
	d.log.Info("sibling disconnected", "reason", why, "lost kicks", d.dropped)
	d.dropped = 0
	s.end(d.kicks)
	d.discard()
	d.changed.Broadcast()
}

// fail is the end of what can be done with this driver, until it resets the device.
func (d *Device) fail(cause error) {
	if d.state == stateFailed {
		return
	}
	d.state = stateFailed
	d.status = 0
	d.log.Warn("driver broke the device: it needs a reset", "err", cause)
	d.stopRings()
	d.disconnect(reasonProtocol)
	d.block.SetNeedsReset()
	d.configChanged()
	d.changed.Broadcast()
}

// driverLost returns to reset when the driver has gone without a word
// (virtio-vhost-user.md 8.6).
func (d *Device) driverLost(cause string) {
	if d.block.Status()&virtiopci.DriverOK == 0 {
		return
	}
	d.log.Info("driver is lost", "cause", cause)
	d.reset(reasonLost)
}

// reset returns to the first state from any other.
func (d *Device) reset(why reason) {
	d.stopRings()
	d.disconnect(why)
	d.state = stateReset
	d.status = 0
	d.selected = 0
	for i := range d.vectors {
		d.vectors[i] = virtiopci.NoVector
	}
	d.block.Reset()
	d.changed.Broadcast()
}

// configChanged tells the driver to look at the device's configuration.
func (d *Device) configChanged() {
	d.block.ConfigChanged()
	d.block.RaiseISR(virtiopci.ISRConfig)
	d.interrupt(d.block.ConfigVector())
}
