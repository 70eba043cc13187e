package cluster

import (
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/log/vfs"
)

// identity is what makes a data directory this broker's (C2, C3), kept in meta.cbor.
type identity struct {
	ClusterID string    `cbor:"1,keyasint"`
	UUID      meta.UUID `cbor:"2,keyasint"`
	// Nonces: the one the controller confirmed last, if any, then those presented since (E5).
	Nonces []meta.UUID `cbor:"3,keyasint"`
	// Opened is a metadata version: every partition that this broker was given up to it has been opened here once. A log
	// that is missing although its partition is older than that was lost, and is not made again in silence.
	Opened uint64 `cbor:"4,keyasint"`
	// Confirmed: a registration was answered; raft/ holds it, and must not be made again from nothing.
	Confirmed bool `cbor:"5,keyasint"`
	// Epoch is the broker epoch of the process that wrote this: a clean end is its (E8).
	Epoch int64 `cbor:"6,keyasint,omitempty"`
	// Former is the cluster whose records are here while ClusterID is empty: the metadata was put aside, and only that cluster may take it in again (ForgetDir).
	Former string `cbor:"7,keyasint,omitempty"`
}

const (
	identityFile    = "meta.cbor"
	identityForm    = 1
	identityMax     = 4 << 10
	identityIsOther = "put back the meta.cbor that belongs to this directory, or start with an empty one"
)

// sealedIdentity guards against flipped bits: another uuid would be another broker.
type sealedIdentity struct {
	_    struct{} `cbor:",toarray"`
	Form int
	CRC  uint32 // CRC-32C of Body
	Body []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// loadIdentity reads meta.cbor; nil when there is none.
func loadIdentity(fsys vfs.FS, dir string) (*identity, error) {
	path := filepath.Join(dir, identityFile)
	b, err := vfs.ReadFile(fsys, path, identityMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	var sealed sealedIdentity
	var id identity
	if err = cbor.Unmarshal(b, &sealed); err == nil {
		switch {
		case sealed.Form != identityForm:
			return nil, fmt.Errorf("read identity %s: form %d: %w", path, sealed.Form, log.ErrNewerFormat)
		case sealed.CRC != crc32.Checksum(sealed.Body, castagnoli):
			err = log.ErrCorrupt
		default:
			err = cbor.Unmarshal(sealed.Body, &id)
		}
	}
	if err != nil || id.ClusterID == "" && id.Confirmed || id.UUID == (meta.UUID{}) {
		return nil, fmt.Errorf("read identity %s: the file is damaged (%w): %s", path, errors.Join(err, log.ErrCorrupt), identityIsOther)
	}
	return &id, nil
}

// save is durable when it returns.
func (id *identity) save(fsys vfs.FS, dir string) error {
	body, err := cbor.Marshal(id)
	if err == nil {
		var b []byte
		b, err = cbor.Marshal(sealedIdentity{Form: identityForm, CRC: crc32.Checksum(body, castagnoli), Body: body})
		if err == nil {
			err = vfs.WriteFile(fsys, filepath.Join(dir, identityFile), b)
		}
	}
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

// newIdentity is that of a first start.
func newIdentity(rand io.Reader) (*identity, error) {
	var id identity
	var cluster [16]byte
	if _, err := io.ReadFull(rand, cluster[:]); err != nil {
		return nil, fmt.Errorf("draw cluster id: %w", err)
	}
	id.ClusterID = base64.RawURLEncoding.EncodeToString(cluster[:]) // 22 characters, as Kafka's
	if _, err := io.ReadFull(rand, id.UUID[:]); err != nil {
		return nil, fmt.Errorf("draw broker uuid: %w", err)
	}
	return &id, nil
}

// present adds a fresh nonce to those held and answers it (E5). When very many starts in a row did not get to
// registering, the oldest of theirs is dropped.
func (id *identity) present(rand io.Reader) (meta.UUID, error) {
	var nonce meta.UUID
	if _, err := io.ReadFull(rand, nonce[:]); err != nil {
		return nonce, fmt.Errorf("draw registration nonce: %w", err)
	}
	if len(id.Nonces) == meta.MaxNonces {
		id.Nonces = slices.Delete(id.Nonces, 1, 2)
	}
	id.Nonces = append(id.Nonces, nonce)
	return nonce, nil
}

// confirm forgets all nonces but the accepted one.
func (id *identity) confirm(nonce meta.UUID) { id.Nonces, id.Confirmed = []meta.UUID{nonce}, true }
