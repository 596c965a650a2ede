//go:build cgo

package jail

const usesCgo = true
