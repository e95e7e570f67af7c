package nfnetlink

// Stable is Read, with the generation as asked for.
var Stable = stable
