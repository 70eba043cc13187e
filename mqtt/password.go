package mqtt

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

const (
	bcryptMaxPassword = 72 // bcrypt ignores what follows
	bcryptMaxCost     = 16 // about five seconds on a small board
	pbkdf2Iterations  = 210_000
	pbkdf2MaxIter     = 10_000_000
	pbkdf2Bytes       = 64
	pbkdf2Prefix      = "$7$" // as mosquitto_passwd writes it: $7$iterations$salt$hash, PBKDF2-HMAC-SHA-512
)

// HashPassword makes the hash for a users file: bcrypt, or PBKDF2 for passwords that bcrypt would cut.
func HashPassword(password []byte) (string, error) {
	return hashPassword(password, bcrypt.DefaultCost, pbkdf2Iterations)
}

func hashPassword(password []byte, cost, iterations int) (string, error) {
	if len(password) == 0 {
		return "", errors.New("empty password")
	}
	if len(password) <= bcryptMaxPassword {
		hash, err := bcrypt.GenerateFromPassword(password, cost)
		return string(hash), err
	}
	salt := make([]byte, 12)
	rand.Read(salt)
	hash, err := pbkdf2.Key(sha512.New, string(password), salt, iterations, pbkdf2Bytes)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	enc := base64.StdEncoding
	return fmt.Sprintf("%s%d$%s$%s", pbkdf2Prefix, iterations, enc.EncodeToString(salt), enc.EncodeToString(hash)), nil
}

// passwordHash is a parsed hash: bcrypt text, or the parts of PBKDF2.
type passwordHash struct {
	bcrypt     []byte
	iterations int
	salt, hash []byte
}

func parseHash(text string) (passwordHash, error) {
	switch {
	case text == "":
		return passwordHash{}, errors.New("missing")
	case strings.HasPrefix(text, "$2"):
		cost, err := bcrypt.Cost([]byte(text))
		if err == nil && cost > bcryptMaxCost {
			err = fmt.Errorf("cost %d, at most %d", cost, bcryptMaxCost)
		}
		if err == nil && len(text) != 60 {
			err = fmt.Errorf("%d characters, want 60", len(text))
		}
		if err != nil {
			return passwordHash{}, fmt.Errorf("bcrypt hash: %w", err)
		}
		return passwordHash{bcrypt: []byte(text)}, nil
	case strings.HasPrefix(text, pbkdf2Prefix):
		return parsePBKDF2(text)
	}
	return passwordHash{}, errors.New("not a hash: want bcrypt ($2a$…) or PBKDF2 ($7$…); never write the password itself")
}

func parsePBKDF2(text string) (passwordHash, error) {
	parts := strings.Split(text[len(pbkdf2Prefix):], "$")
	if len(parts) != 3 {
		return passwordHash{}, errors.New("PBKDF2 hash: want $7$iterations$salt$hash")
	}
	n, err := strconv.Atoi(parts[0])
	if err != nil || n < 1 || n > pbkdf2MaxIter {
		return passwordHash{}, fmt.Errorf("PBKDF2 hash: %q iterations, want 1 to %d", parts[0], pbkdf2MaxIter)
	}
	salt, errSalt := base64.StdEncoding.DecodeString(parts[1])
	hash, errHash := base64.StdEncoding.DecodeString(parts[2])
	if errSalt != nil || errHash != nil || len(salt) == 0 || len(hash) < 16 || len(hash) > 128 {
		return passwordHash{}, errors.New("PBKDF2 hash: salt or hash is no base64 of a fitting length")
	}
	return passwordHash{iterations: n, salt: salt, hash: hash}, nil
}

// matches verifies a password in about the time that the hash was made for.
func (h *passwordHash) matches(password []byte) bool {
	if h.bcrypt != nil {
		return len(password) <= bcryptMaxPassword && bcrypt.CompareHashAndPassword(h.bcrypt, password) == nil
	}
	key, err := pbkdf2.Key(sha512.New, string(password), h.salt, h.iterations, len(h.hash))
	return err == nil && subtle.ConstantTimeCompare(key, h.hash) == 1
}

// Passwords verifies passwords without letting a reconnecting fleet, or somebody who guesses,
// take the processor: a password that was right once is known again by its keyed digest, which never
// leaves memory, and only some slow verifications run at a time.
type Passwords struct {
	key   []byte
	slots chan struct{}
	dummy passwordHash
	mu    sync.RWMutex
	known map[string][sha256.Size]byte // what it is the password of → digest of the right one
}

// maxKnown bounds the passwords that are known again.
const maxKnown = 50_000

// NewPasswords knows none yet.
func NewPasswords() *Passwords {
	c := &Passwords{
		key: make([]byte, 32), slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), known: map[string][sha256.Size]byte{},
	}
	rand.Read(c.key)
	// Costs what a usual hash costs, and matches no password.
	c.dummy = passwordHash{bcrypt: []byte("$2a$10$abcdefghijklmnopqrstuuS1XbT8yVw8yqB1lQ0dX6m3e0uO9bW2")}
	return c
}

func (c *Passwords) digest(user string, password []byte) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, c.key)
	mac.Write([]byte(user))
	mac.Write([]byte{0})
	mac.Write(password)
	mac.Sum(sum[:0])
	return sum
}

// Check tells whether a password is the right one of what the name stands for: another name where that changes. matches takes its time.
func (c *Passwords) Check(name string, password []byte, matches func([]byte) bool) bool {
	sum := c.digest(name, password)
	c.mu.RLock()
	known, ok := c.known[name]
	c.mu.RUnlock()
	if ok && subtle.ConstantTimeCompare(known[:], sum[:]) == 1 {
		return true
	}
	c.slots <- struct{}{}
	right := matches(password)
	<-c.slots
	if right {
		c.mu.Lock()
		if len(c.known) >= maxKnown {
			clear(c.known)
		}
		c.known[name] = sum
		c.mu.Unlock()
	}
	return right
}

// Waste takes as long as Check, so that the time does not tell which users exist.
func (c *Passwords) Waste(password []byte) {
	c.slots <- struct{}{}
	c.dummy.matches(password)
	<-c.slots
}
