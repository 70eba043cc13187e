package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log/vfs"
)

// IdentityReport is what meta.cbor says about a data directory.
type IdentityReport struct {
	Kind       string   `json:"kind"` // "identity"
	Name       string   `json:"name"`
	ClusterID  string   `json:"cluster_id,omitempty"`
	UUID       string   `json:"uuid,omitempty"`
	Registered bool     `json:"registered"`       // the cluster has answered a registration
	Nonces     int      `json:"nonces"`           // those it may still be known by
	Opened     uint64   `json:"opened"`           // metadata version up to which every partition has been here
	Faults     []string `json:"faults,omitempty"` // one at most
}

// Damaged says whether the file is missing or is not what was written.
func (r *IdentityReport) Damaged() bool { return len(r.Faults) > 0 }

// String is one line.
func (r *IdentityReport) String() string {
	if r.Damaged() {
		return fmt.Sprintf("%s: identity; DAMAGED %s", r.Name, r.Faults[0])
	}
	registered := "not registered yet"
	if r.Registered {
		registered = "registered"
	}
	return fmt.Sprintf("%s: identity, cluster %s, broker %s, %s, nonces held %d, partitions opened up to version %d; ok",
		r.Name, r.ClusterID, r.UUID, registered, r.Nonces, r.Opened)
}

// InspectDir reads what a data directory holds of the cluster: meta.cbor and raft/. It changes nothing and takes no lock, so the
// node may run. line gets an *IdentityReport, each meta.EntryInfo, and a *meta.Report; nothing where there is neither file,
// as beside a log that no broker has opened. faults counts what is wrong.
func InspectDir(dir string, line func(fmt.Stringer) error) (faults int, err error) {
	raft := filepath.Join(dir, "raft", "raft.db")
	_, err = os.Stat(raft)
	noMetadata := errors.Is(err, fs.ErrNotExist)
	identity := &IdentityReport{Kind: "identity", Name: filepath.Join(dir, identityFile)}
	id, err := loadIdentity(vfs.OS{}, dir)
	switch {
	case err != nil:
		identity.Faults = []string{err.Error()}
	case id == nil && noMetadata:
		return 0, nil
	case id == nil:
		identity.Faults = []string{"the file is missing: " + identityIsOther}
	default:
		identity.ClusterID, identity.UUID, identity.Registered = id.ClusterID, id.UUID.String(), id.Confirmed
		identity.Nonces, identity.Opened = len(id.Nonces), id.Opened
	}
	if err := line(identity); err != nil {
		return 0, err
	}
	metadata := &meta.Report{Kind: "metadata", Name: raft}
	if !noMetadata {
		metadata, err = meta.Inspect(filepath.Dir(raft), func(e meta.EntryInfo) error { return line(e) })
	} else if identity.Registered {
		metadata.Faults = []string{"the file is missing: restore raft/ from a backup"}
	}
	if err == nil && (!noMetadata || identity.Registered) {
		err = line(metadata)
	}
	if err != nil {
		return 0, fmt.Errorf("metadata: %w", err)
	}
	return len(identity.Faults) + len(metadata.Faults), nil
}
