//go:build !linux

package main

import "syscall"

// childAttr is how a node of a demo runs: in a process group of its own, so that Ctrl-C reaches the demo alone and the
// node is stopped in order. Only Linux can end a child with its parent; elsewhere nodes outlive a demo that is killed
// with -9.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
