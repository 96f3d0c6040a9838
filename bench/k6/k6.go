// Package k6 has the load scripts: the checkout journey, the reserve spike, browsing while selling, the
// soak, and the echo that is their baseline. Each says at its top what it does and what can be set.
package k6

import (
	"embed"
	"fmt"
	"os"
)

//go:embed *.js
var scripts embed.FS

// Write writes the scripts into a folder that is there.
func Write(dir string) error {
	if err := os.CopyFS(dir, scripts); err != nil {
		return fmt.Errorf("load scripts: %w", err)
	}
	return nil
}
