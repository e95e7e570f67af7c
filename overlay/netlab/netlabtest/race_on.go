//go:build race

package netlabtest

const race = true
