//go:build !unix

package main

import "os"

// flock does nothing where there is no flock: do not start two processes on one folder there.
func flock(*os.File) error { return nil }
