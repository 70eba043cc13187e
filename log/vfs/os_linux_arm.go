package vfs

import "syscall"

// syncFileRange: package syscall has only the number of it here. Unlike elsewhere flags are the second argument, so
// that both 64-bit ones begin at an even register.
func syncFileRange(fd uintptr, from, n int64, flags int) {
	_, _, _ = syscall.Syscall6(syscall.SYS_ARM_SYNC_FILE_RANGE, fd, uintptr(flags), uintptr(from), uintptr(from>>32), uintptr(n), uintptr(n>>32))
}
