// Package enginesim is a seeded simulation of the whole flow. The engine's own code runs over
// models of the ledger, the stores, the gate, the transports and the clock; a seed decides the
// order in which their calls take effect, what is lost, repeated, late or restarted, and where a
// process dies. It consists of tests only: nothing of it is in the shipped binary.
//
// A seed is replayed with its log of events by
//
//	go test ./engine/enginesim -run TestSeeds -seed=N -v
package enginesim
