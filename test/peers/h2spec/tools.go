//go:build tools

package main

// The suite's own commands are built from here too: their versions are kept by naming them.
import (
	_ "github.com/summerwind/h2spec/cmd/h2spec"
	_ "github.com/summerwind/h2spec/cmd/h2specd"
)
