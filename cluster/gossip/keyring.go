package gossip

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// KeyBytes is the length of a key: AES-256.
const KeyBytes = 32

// ReadKeyring reads keys from a file: a JSON list of base64 strings, as Serf and Consul keep it; the first is used to send. No file
// is no keys. A file that others may read is refused.
func ReadKeyring(path string) ([][]byte, error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("keyring %s does not exist: make one with `weir cluster keygen %s`, and copy it to all nodes", path, path)
	}
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("keyring %s is readable by others (mode %#o): chmod 600 %s", path, mode, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	var texts []string
	if err := json.Unmarshal(b, &texts); err != nil {
		return nil, fmt.Errorf("keyring %s: want a JSON list of base64 keys: %w", path, err)
	}
	if len(texts) == 0 {
		return nil, fmt.Errorf("keyring %s holds no key", path)
	}
	var keys [][]byte
	for i, text := range texts {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) != KeyBytes {
			return nil, fmt.Errorf("keyring %s: key %d is not %d bytes in base64", path, i+1, KeyBytes)
		}
		keys = append(keys, key)
	}
	return keys, nil
}
