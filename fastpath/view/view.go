// Package view shows a string as bytes and bytes as a string without a copy.
package view

import "unsafe"

// String shows b as a string. The string is valid, and constant, only as long as nobody writes to b.
func String(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// Bytes shows s as bytes. Writing to them is undefined behaviour.
func Bytes(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s))
}
