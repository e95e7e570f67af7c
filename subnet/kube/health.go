package kube

// What a Store does at a time, for health and progress.
const (
	taskConfig    = "watching the network config"
	taskLeases    = "watching the Nodes"
	taskOwn       = "watching our own Node"
	taskHold      = "announcing our lease"
	taskCondition = "keeping the Node's condition NetworkUnavailable"
)
