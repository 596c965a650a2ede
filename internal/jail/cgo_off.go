//go:build !cgo

package jail

const usesCgo = false
