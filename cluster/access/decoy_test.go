package access

import (
	"bytes"
	"fmt"
	"regexp"
	"testing"
)

var ofKafka = regexp.MustCompile(`^[1-9a-z][0-9a-z]{19,25}$`)

// users are n credentials with so many iterations, and salts of so many bytes or as Kafka's clients make them.
func users(prefix string, n int, m Mechanism, iterations int32, salt int) (all []Credential) {
	d := NewDecoys([]byte(prefix), nil)
	for i := range n {
		name := fmt.Sprintf("%s-%d", prefix, i)
		all = append(all, Credential{User: name, Mechanism: m, Salt: d.salt(m, name, salt), Iterations: iterations})
	}
	return all
}

// S4: what nobody has looks like what users have, each kind as often.
func TestDecoysLookLikeUsers(t *testing.T) {
	for name, c := range map[string]struct {
		credentials []Credential
		want        map[shape]float64
	}{
		"no credentials":    {nil, map[shape]float64{{4096, 24}: 1}},
		"of the other kind": {users("u", 3, SHA512, 9000, 16), map[shape]float64{{4096, 24}: 1}},
		"all alike":         {users("u", 3, SHA256, 8192, 16), map[shape]float64{{8192, 16}: 1}},
		"Kafka's clients":   {users("u", 3, SHA256, 8192, kafkaSalt), map[shape]float64{{8192, kafkaSalt}: 1}},
		"some of each": {append(users("u", 60, SHA256, 8192, kafkaSalt), append(users("v", 30, SHA256, 16_384, 64), users("w", 10, SHA256, 4096, 40)...)...),
			map[shape]float64{{8192, kafkaSalt}: 0.6, {16_384, 64}: 0.3, {4096, 40}: 0.1}},
	} {
		d := NewDecoys([]byte("secret"), c.credentials)
		const names = 4000
		got := map[shape]int{}
		for i := range names {
			x := d.credential(SHA256, fmt.Sprint("nobody-", i))
			got[shapeOf(x)]++
			if s := shapeOf(x); s.salt == kafkaSalt && !ofKafka.Match(x.Salt) {
				t.Fatalf("%s: salt %q", name, x.Salt)
			}
		}
		for s, n := range got {
			if share := float64(n) / names; share < c.want[s]-0.03 || share > c.want[s]+0.03 {
				t.Errorf("%s: %d of %d look like %+v, want %.0f %%", name, n, names, s, 100*c.want[s])
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// S4: a name has the same on all nodes, with another mechanism another salt of the same kind, and one user more changes few of them.
func TestDecoysStay(t *testing.T) {
	both := func(n int) []Credential {
		return append(users("u", n, SHA256, 8192, 16), append(users("v", 50, SHA256, 4096, 16), append(users("u", n, SHA512, 8192, 16), users("v", 50, SHA512, 4096, 16)...)...)...)
	}
	here, there, later := NewDecoys([]byte("secret"), both(50)), NewDecoys([]byte("secret"), both(50)), NewDecoys([]byte("secret"), both(51))
	changed := 0
	for i := range 1000 {
		name := fmt.Sprint("nobody-", i)
		a, b, c := here.credential(SHA256, name), there.credential(SHA256, name), here.credential(SHA512, name)
		if !bytes.Equal(a.Salt, b.Salt) || a.Iterations != b.Iterations || a.Iterations != c.Iterations || bytes.Equal(a.Salt, c.Salt) {
			t.Fatalf("%s: %+v, on another node %+v, with another mechanism %+v", name, a, b, c)
		}
		if l := later.credential(SHA256, name); l.Iterations != a.Iterations {
			changed++
		}
	}
	if changed > 30 {
		t.Errorf("one user more changes %d of 1000", changed)
	}
}

// S4: the exchange gives it, and no proof holds for it.
func TestExchangeWithADecoy(t *testing.T) {
	known := users("u", 3, SHA256, 8192, kafkaSalt)
	x := &Exchange{Mechanism: SHA256, Decoys: NewDecoys([]byte("secret"), known), Lookup: func(string, Mechanism) (Credential, bool) { return Credential{}, false }}
	first, err := x.First([]byte("n,,n=nobody,r=n"), "s")
	if err != nil || !bytes.HasSuffix(first, []byte(",i=8192")) {
		t.Fatalf("%s, %v", first, err)
	}
	if _, _, err := x.Final([]byte(prove(t, SHA256, "x", "n=nobody,r=n", string(first)))); err == nil {
		t.Error("somebody who is not there has proved who he is")
	}
}
