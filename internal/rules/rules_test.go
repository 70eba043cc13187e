// Package rules holds the project's rules about itself: which room may import which. A wall that nobody checks is gone
// within a month.
package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/weir-io/weir"

// rule says what a room may import besides the standard library: rooms of this module, by path below it, and third-party
// modules. A path that ends in "/..." stands for all below it.
type rule struct {
	room    string
	rooms   []string
	modules []string
}

// The longest matching room decides. What no rule names may import nothing.
var rules = []rule{
	{"log", []string{"log/vfs"}, []string{"github.com/klauspost/compress", "github.com/pierrec/lz4/v4"}}, // compaction looks inside batches
	{"log/vfs", nil, []string{"golang.org/x/sys"}},
	{"cluster", []string{"log", "log/vfs", "cluster/access", "cluster/meta", "cluster/control", "cluster/quorum", "cluster/gossip", "cluster/replica", "cluster/rpc"}, []string{"github.com/fxamacker/cbor/v2", "golang.org/x/sys"}},
	{"cluster/access", nil, nil},
	{"cluster/meta", []string{"log", "cluster/access"}, []string{"github.com/hashicorp/raft", "github.com/hashicorp/go-hclog", "go.etcd.io/bbolt", "github.com/fxamacker/cbor/v2"}},
	{"cluster/control", []string{"log", "cluster/meta"}, nil},
	{"cluster/replica", nil, nil},
	{"cluster/gossip", nil, []string{"github.com/hashicorp/serf", "github.com/hashicorp/memberlist"}},
	{"cluster/quorum", []string{"cluster/meta", "cluster/gossip"}, nil},
	{"cluster/rpc", nil, []string{"github.com/fxamacker/cbor/v2"}},
	{"cluster/replica/model", nil, nil},
	{"cluster/sim", []string{"cluster", "cluster/control", "cluster/meta", "cluster/rpc", "log", "log/vfs"}, nil},
	{"mqtt", []string{"log", "mqtt/...", "internal/door", "internal/strictyaml"}, []string{"github.com/fxamacker/cbor/v2", "github.com/gobwas/ws", "golang.org/x/crypto"}},
	{"mqtt/conn", []string{"mqtt/packet"}, []string{"github.com/gobwas/ws", "golang.org/x/sys"}},
	{"mqtt/packet", nil, []string{"github.com/mochi-mqtt/server/v2"}},
	{"mqtt/session", []string{"mqtt/packet"}, nil},
	{"mqtt/deliver", []string{"log", "mqtt/packet"}, []string{"github.com/mochi-mqtt/server/v2", "github.com/fxamacker/cbor/v2"}},
	{"mqtt/schema", nil, []string{"github.com/santhosh-tekuri/jsonschema/v6", "github.com/twmb/avro", "github.com/emicklei/proto", "golang.org/x/text"}},
	{"mqtt/schema/registry", []string{"mqtt/schema"}, nil},
	{"mqtt/spec", nil, nil},
	{"mqtt/spec/coverage", []string{"mqtt/spec"}, nil},
	{"mqtt/spec/mutate", []string{"mqtt/spec"}, nil},
	{"bridge/kafka", []string{"log", "cluster", "cluster/access", "cluster/meta", "cluster/rpc", "bridge/group", "bridge/group/assign", "bridge/txn", "bridge/throttle", "internal/door"}, []string{"github.com/twmb/franz-go/pkg/kmsg", "github.com/klauspost/compress", "github.com/pierrec/lz4/v4", "golang.org/x/crypto"}},
	{"bridge/group", []string{"bridge/group/assign"}, nil},
	{"bridge/group/assign", nil, nil},
	{"bridge/throttle", nil, nil},
	{"bridge/txn", nil, nil},
	{"bridge/uplink", []string{"log", "internal/payload", "internal/strictyaml"}, []string{"github.com/expr-lang/expr", "github.com/twmb/franz-go", "github.com/twmb/franz-go/pkg/kadm", "github.com/twmb/franz-go/pkg/kmsg", "github.com/klauspost/compress", "github.com/eclipse/paho.golang"}},
	{"bridge/alert", []string{"internal/payload", "internal/strictyaml"}, []string{"github.com/twmb/franz-go/pkg/kadm", "github.com/twmb/franz-go", "github.com/twmb/franz-go/pkg/kmsg", "github.com/expr-lang/expr"}},
	{"firmware-sim", nil, []string{"github.com/eclipse/paho.golang", "github.com/fxamacker/cbor/v2", "github.com/gobwas/ws"}},
	{"internal/door", nil, nil},
	{"internal/dice", nil, nil},
	{"internal/dice/overlay", []string{"internal/dice"}, nil},
	{"internal/mutant", nil, nil},
	{"internal/payload", nil, []string{"github.com/fxamacker/cbor/v2"}},
	{"internal/strictyaml", nil, []string{"github.com/goccy/go-yaml"}},
	{"cmd/...", []string{"..."}, []string{"..."}},
}

type goPackage struct {
	ImportPath string
	Standard   bool
	Module     *struct{ Path string }
	Imports    []string
}

func list(t *testing.T, args ...string) map[string]goPackage {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Module,Imports"}, args...)...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	pkgs := map[string]goPackage{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs[p.ImportPath] = p
	}
}

func matches(pattern, name string) bool {
	if prefix, all := strings.CutSuffix(pattern, "..."); all {
		return strings.HasPrefix(name+"/", prefix)
	}
	return pattern == name
}

func ruleFor(room string) (rule, bool) {
	best, found := rule{}, false
	for _, r := range rules {
		if matches(r.room, room) && len(r.room) >= len(best.room) {
			best, found = r, true
		}
	}
	return best, found
}

// breaks says which imports of p its rule does not allow; tests are free.
func breaks(p goPackage, all map[string]goPackage) (bad []string) {
	room := strings.TrimPrefix(p.ImportPath, module+"/")
	r, found := ruleFor(room)
	if !found {
		return []string{"no rule names this package: add it to the table"}
	}
	for _, path := range p.Imports {
		i := all[path]
		switch {
		case path == "log":
			bad = append(bad, path+" (log with log/slog)")
		case i.Standard:
		case strings.HasPrefix(path, module+"/"):
			if to := strings.TrimPrefix(path, module+"/"); !slices.ContainsFunc(r.rooms, func(s string) bool { return matches(s, to) }) {
				bad = append(bad, path)
			}
		case i.Module == nil || !slices.ContainsFunc(r.modules, func(s string) bool { return matches(s, i.Module.Path) }):
			bad = append(bad, path)
		}
	}
	return bad
}

func TestImports(t *testing.T) {
	all := list(t, "-deps", module+"/...")
	for _, p := range list(t, module+"/...") {
		if p.ImportPath == module+"/internal/rules" {
			continue
		}
		for _, bad := range breaks(p, all) {
			t.Errorf("%s: %s", strings.TrimPrefix(p.ImportPath, module+"/"), bad)
		}
	}
}

// The check itself finds what it is there for.
func TestImportsFindsBreaks(t *testing.T) {
	all := list(t, "-deps", module+"/cluster/meta")
	for name, c := range map[string]struct {
		from, imports string
		bad           bool
	}{
		"pure room imports a room":     {"cluster/replica", module + "/log", true},
		"lower room imports an upper":  {"log", module + "/cluster/meta", true},
		"allowed room":                 {"cluster/meta", module + "/log", false},
		"standard library":             {"cluster/replica", "fmt", false},
		"standard log":                 {"cmd/weir", "log", true},
		"allowed module":               {"cluster/meta", "go.etcd.io/bbolt", false},
		"module of another room":       {"log", "go.etcd.io/bbolt", true},
		"package of an allowed module": {"cluster/meta", "go.etcd.io/bbolt/errors", false},
		"room without a rule":          {"newroom", "fmt", true},
	} {
		p := goPackage{ImportPath: module + "/" + c.from, Imports: []string{c.imports}}
		if bad := breaks(p, all); (len(bad) > 0) != c.bad {
			t.Errorf("%s: %v", name, bad)
		}
	}
}

// The binary goes to boards with little flash over slow links. What makes it grow at one stroke is not code that runs but
// code that the linker cannot leave out: a registry of all messages, a table of all codecs.
func TestBinaryStaysSmall(t *testing.T) {
	// Schemas, which routes hold payloads to, took the last 2.6 MB (Avro 1.2, JSON Schema 0.9, Protobuf 0.2, the registry's client 0.3), uplinks 1.2, rules and users 0.5.
	const maxBytes = 29_450_000
	dir := t.TempDir()
	out := filepath.Join(dir, "weir")
	build := exec.Command("make", "-C", "../..", "build", "BIN="+dir) // as it is shipped
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxBytes {
		t.Errorf("the stripped binary has %d bytes, more than %d", info.Size(), maxBytes)
	}
	// kong and expr call methods by name, so that the linker keeps all exported ones of each type that reflection could reach: also through a field of a type that stands
	// behind an interface. These two are never called: with them comes half a megabyte of others.
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"kadm.(*Client).DescribeShareGroups", "http.(*http2Framer).ReadFrame"} {
		if bytes.Contains(text, []byte(method)) {
			t.Errorf("%s is linked in: see what type has a field of that kind, and the Makefile's TAGS", method)
		}
	}
	for path := range list(t, "-deps", module+"/cmd/weir") {
		if strings.HasPrefix(path, "google.golang.org/protobuf") || strings.HasPrefix(path, "github.com/prometheus") {
			t.Errorf("%s is linked in; only tests may use it", path)
		}
	}
}
