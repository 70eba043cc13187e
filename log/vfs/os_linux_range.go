//go:build linux && !arm

package vfs

import "syscall"

func syncFileRange(fd uintptr, from, n int64, flags int) {
	_ = syscall.SyncFileRange(int(fd), from, n, flags)
}
