// Package archtest holds the shape of the module as tests: which package may
// import what, and what stands at the top of the repository. It has no code of
// its own, imports nothing of this module, and nothing imports it.
package archtest
