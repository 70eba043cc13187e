package access

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/big"
)

// Decoys are what users who are not there are given in place of a credential (S4): a name has always the same, as long as nobody's credential changes, and what a
// client sees of it is drawn by the name from what the credentials that there are look like. So no salt and no number of iterations is only one of users, or only one of
// nobody. Not safe is who comes back after others' credentials have changed in number: of the names of nobody a few look different then.
//
// Apache Kafka makes none: it answers the first message of who is not there with an error.
type Decoys struct {
	secret []byte // the same for all of whom a client could ask
	shapes map[Mechanism]map[shape]int
}

// shape is what a client sees of a credential before it has proved anything, but for the bits of its salt.
type shape struct {
	iterations int32
	salt       int // bytes, or kafkaSalt
}

// Salts of Apache Kafka's clients are numbers of 130 bits, written to the base 36.
const (
	kafkaSalt     = -1
	kafkaSaltBits = 130
	kafkaSaltMin  = 20 // digits: with one in a billion it would be shorter
	kafkaSaltMax  = 26
)

func shapeOf(c Credential) shape {
	s := shape{c.Iterations, len(c.Salt)}
	if s.salt < kafkaSaltMin || s.salt > kafkaSaltMax {
		return s
	}
	for _, b := range c.Salt {
		if (b < '0' || b > '9') && (b < 'a' || b > 'z') {
			return s
		}
	}
	return shape{c.Iterations, kafkaSalt}
}

// NewDecoys makes what users who have none of the credentials are given.
func NewDecoys(secret []byte, credentials []Credential) *Decoys {
	d := &Decoys{secret: secret, shapes: map[Mechanism]map[shape]int{}}
	for _, m := range Mechanisms {
		d.shapes[m] = map[shape]int{}
	}
	for _, c := range credentials {
		if of := d.shapes[c.Mechanism]; of != nil {
			of[shapeOf(c)]++
		}
	}
	return d
}

// credential is what a user who is not there would have. No password is that of its keys.
func (d *Decoys) credential(m Mechanism, user string) Credential {
	s := d.draw(m, user)
	key := make([]byte, m.size())
	return Credential{User: user, Mechanism: m, Salt: d.salt(m, user, s.salt), StoredKey: key, ServerKey: key, Iterations: s.iterations}
}

// draw chooses among the shapes, each as often as there are credentials of it. Each has its own lot for a name, the highest wins (rendezvous hashing, weighted): a credential
// more or less changes few names' draws. The mechanism has no part in it, since users have mostly the same with both.
func (d *Decoys) draw(m Mechanism, user string) shape {
	drawn, best := shape{MinIterations, 24}, math.Inf(-1)
	for s, n := range d.shapes[m] {
		h := hmac.New(sha256.New, d.secret)
		var b [12]byte
		binary.BigEndian.PutUint32(b[:], uint32(s.iterations))
		binary.BigEndian.PutUint64(b[4:], uint64(s.salt))
		h.Write(b[:])
		h.Write([]byte(user))
		lot := (float64(binary.BigEndian.Uint64(h.Sum(nil))>>11) + 0.5) / (1 << 53)
		if score := float64(n) / -math.Log(lot); score > best {
			drawn, best = s, score
		}
	}
	return drawn
}

// salt makes one of so many bytes, or one of Kafka's.
func (d *Decoys) salt(m Mechanism, user string, size int) []byte {
	n := size
	if size == kafkaSalt {
		n = (kafkaSaltBits + 7) / 8
	}
	var salt []byte
	for i := byte(0); len(salt) < n; i++ {
		salt = append(salt, m.mac(d.secret, append([]byte{i}, user...))...)
	}
	salt = salt[:n]
	if size == kafkaSalt {
		salt[0] &= 1<<(kafkaSaltBits%8) - 1
		return []byte(new(big.Int).SetBytes(salt).Text(36))
	}
	return salt
}
