//go:build !linux

package vfs

// Sync is what package os offers: fsync, and on darwin F_FULLFSYNC, without which the drive may keep
// the data in its cache.
func (f *osFile) Sync() error { return f.File.Sync() }
