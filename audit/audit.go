// Package audit holds what an audit reports: equations with their figures.
package audit

// Check is one equation of the audit: what was compared, the figures, and whether it held.
type Check struct {
	Equation int    `json:"equation"` // its number in docs/ARCHITECTURE.md
	Name     string `json:"name"`
	Figures  string `json:"figures"`
	OK       bool   `json:"ok"`
}

// Clean reports whether every check held. No checks at all is not clean: nothing was shown.
func Clean(checks []Check) bool {
	for _, c := range checks {
		if !c.OK {
			return false
		}
	}
	return len(checks) > 0
}
