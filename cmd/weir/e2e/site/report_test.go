package site

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// report logs what a scenario came to; long runs also write it to bin/site-report.txt, or where WEIR_SITE_REPORT says.
func report(t *testing.T, line string) {
	t.Helper()
	t.Log(line)
	if !soak() {
		return
	}
	file := os.Getenv("WEIR_SITE_REPORT")
	if file == "" {
		_, here, _, _ := runtime.Caller(0)
		file = filepath.Join(filepath.Dir(here), "..", "..", "..", "..", "bin", "site-report.txt")
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintln(f, time.Now().UTC().Format(time.DateTime), line)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}
