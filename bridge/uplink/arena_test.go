package uplink

import (
	"bytes"
	"testing"
)

func TestArenaKeepsWhatItGaveUntilReset(t *testing.T) {
	a := arena[byte]{block: 64}
	for range 3 {
		var kept [][]byte
		for i := range 100 {
			b := a.copy(bytes.Repeat([]byte{byte(i)}, i%40))
			if cap(b) != len(b) {
				t.Fatal("an append would write into what comes next")
			}
			kept = append(kept, b)
		}
		for i, b := range kept {
			if !bytes.Equal(b, bytes.Repeat([]byte{byte(i)}, i%40)) {
				t.Fatalf("slice %d is %v", i, b)
			}
		}
		a.reset()
	}
	if n := len(a.blocks); n > 100 {
		t.Errorf("%d blocks", n)
	}
	if a.copy(nil) != nil || a.copy([]byte{}) == nil {
		t.Error("null and empty are not the same")
	}
}
