package quorum

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weir-io/weir/cluster/gossip"
)

// NewKey draws a key in the form that the keyring file and gossip.Rotate have it.
func NewKey() (string, error) {
	key := make([]byte, gossip.KeyBytes)
	if _, err := rand.Read(key); err != nil {
		return "", fmt.Errorf("draw a cluster key: %w", err)
	}
	return base64.StdEncoding.EncodeToString(key), nil
}

// CreateKeyring writes a file with one new key, for gossip.ReadKeyring, readable by its owner only. It never replaces one. It is
// durable when CreateKeyring returns.
func CreateKeyring(path string) error {
	key, err := NewKey()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent([]string{key}, "", "  ")
	if err != nil {
		return fmt.Errorf("make keyring: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make keyring: %s exists: use it, or choose another name", path)
	}
	if err != nil {
		return fmt.Errorf("make keyring: %w", err)
	}
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close(), syncDir(filepath.Dir(path))); err != nil {
		return fmt.Errorf("make keyring %s: %w", path, errors.Join(err, os.Remove(path)))
	}
	return nil
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// CallKeys are the keys with which nodes prove themselves to each other in calls, derived from those of a keyring, in its order: the first is
// used, any is accepted. Given gossip.Gossip.Keys, they follow a rotation.
func CallKeys(ring [][]byte) [][]byte {
	var keys [][]byte
	for _, key := range ring {
		m := hmac.New(sha256.New, key)
		m.Write([]byte("weir calls 1"))
		keys = append(keys, m.Sum(nil))
	}
	return keys
}
