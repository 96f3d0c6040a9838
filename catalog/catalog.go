// Package catalog defines products and sales: what can be bought, when, and on which terms.
package catalog
