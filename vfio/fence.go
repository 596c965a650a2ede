package vfio

// Fence orders every access of memory before it with every one after it, of registers
// and of plain memory, as the device sees them too. A doorbell needs one before it, so
// that the device finds in memory what the doorbell speaks of; so does memory that is
// read because of what a register said.
//
//go:noescape
func Fence()
