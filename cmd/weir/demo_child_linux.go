package main

import "syscall"

// childAttr is how a node of a demo runs: in a process group of its own, so that Ctrl-C reaches the demo alone and the
// node is stopped in order, and killed by the kernel when the demo dies without having stopped it. The kernel takes the
// end of the thread that made the child for the demo's death: see demoNode.run.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
