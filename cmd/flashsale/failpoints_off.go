//go:build !failpoints

package main

import (
	"flashsale/engine"
	"flashsale/payment"
	"flashsale/transport"
	"time"
)

// sabotage is nothing: this program cannot be told to fail. The test builds' is in the twin of this file.
type sabotage struct{}

func openSabotage() (sabotage, error) { return sabotage{}, nil }

func (sabotage) clock() func() time.Time { return time.Now }

func (sabotage) gate(next engine.GateKeeper) engine.GateKeeper { return next }

func (sabotage) stores(*stores) {}

func (sabotage) provider(next payment.Provider) payment.Provider { return next }

func (sabotage) transport(next transport.Transport) transport.Transport { return next }
