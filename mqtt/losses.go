package mqtt

import (
	"bytes"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/mqtt/deliver"
)

// ReadLosses takes out of a record of __mqtt_sessions what retention took from the session before its client was given
// it. ok is false for records that are not a session's own, which say nothing about that; a session that is gone has
// lost nothing.
func ReadLosses(key, value []byte) (losses []deliver.Loss, ok bool, err error) {
	if len(key) == 0 || bytes.IndexByte(key, 0) >= 0 {
		return nil, false, nil
	}
	if value == nil {
		return nil, true, nil
	}
	var r struct {
		Format int          `cbor:"1,keyasint"`
		Lost   []lossRecord `cbor:"10,keyasint"`
	}
	if err := cbor.Unmarshal(value, &r); err != nil {
		return nil, false, fmt.Errorf("record of session %q: %w", key, err)
	}
	if r.Format < 1 || r.Format > recordFormat {
		return nil, false, fmt.Errorf("record of session %q has format %d, this version reads 1 to %d", key, r.Format, recordFormat)
	}
	return restoreLosses(r.Lost), true, nil
}
