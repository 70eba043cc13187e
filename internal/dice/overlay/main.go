// Command overlay writes package dice's overlay into a directory, and prints the file that go's -overlay wants: go test -overlay $(go run ./internal/dice/overlay bin/dice) ./cluster/sim
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/weir-io/weir/internal/dice"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "overlay: want one argument, the directory to write to")
		os.Exit(2)
	}
	dir, err := filepath.Abs(os.Args[1])
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	file := ""
	if err == nil {
		file, err = dice.Overlay(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "overlay:", err)
		os.Exit(1)
	}
	fmt.Println(file)
}
