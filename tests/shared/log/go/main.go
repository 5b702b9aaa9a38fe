// Checks what Prooftrail's log wrote with Go's own code for logs and notes (golang.org/x/mod/sumdb), sharing nothing with it.
//
//	check FOLDER
//
// The folder holds case.json, as below, and the tiles under tile/. Exit code 0: everything holds; 1: what does not is told.
package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type proof struct {
	Old, Size int64
	Index     int64
	Leaf      []byte
	Proof     [][]byte
}

type logCase struct {
	LogKey, WitnessKey string
	Notes              []string // any notes by the log's key
	Checkpoints        []string // by the log's key, cosigned by the witness
	SigningKey         string   // the private half of LogKey
	Inclusion          []proof
	Consistency        []proof
	Entries            [][]byte
}

func main() {
	if err := check(os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("holds")
}

func check(folder string) error {
	content, err := os.ReadFile(filepath.Join(folder, "case.json"))
	if err != nil {
		return err
	}
	var c logCase
	if err := json.Unmarshal(content, &c); err != nil {
		return err
	}
	log, err := note.NewVerifier(c.LogKey)
	if err != nil {
		return fmt.Errorf("log key: %w", err)
	}
	if err := checkNotes(&c, log); err != nil {
		return err
	}
	roots := map[int64]tlog.Hash{}
	for number, checkpoint := range c.Checkpoints {
		size, root, err := openCheckpoint(checkpoint, log, c.WitnessKey)
		if err != nil {
			return fmt.Errorf("checkpoint %d: %w", number, err)
		}
		roots[size] = root
	}
	if err := checkProofs(&c, roots); err != nil {
		return err
	}
	return checkTiles(&c, folder, roots)
}

// checkNotes opens every note, and signs one with the private key as it would be written by Prooftrail.
func checkNotes(c *logCase, log note.Verifier) error {
	signer, err := note.NewSigner(c.SigningKey)
	if err != nil {
		return fmt.Errorf("signing key: %w", err)
	}
	for number, content := range c.Notes {
		opened, err := note.Open([]byte(content), note.VerifierList(log))
		if err != nil {
			return fmt.Errorf("note %d: %w", number, err)
		}
		again, err := note.Sign(&note.Note{Text: opened.Text}, signer)
		if err != nil || string(again) != content {
			return fmt.Errorf("note %d: Go writes it differently (%v)", number, err)
		}
	}
	return nil
}

// A witness is a note.Verifier for C2SP tlog-cosignature, which x/mod does not know.
type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (w witness) Name() string    { return w.name }
func (w witness) KeyHash() uint32 { return w.hash }

func (w witness) Verify(message, signature []byte) bool {
	if len(signature) != 72 {
		return false
	}
	time := strconv.FormatUint(binary.BigEndian.Uint64(signature), 10)
	return ed25519.Verify(w.key, append([]byte("cosignature/v1\ntime "+time+"\n"), message...), signature[8:])
}

func newWitness(key string) (note.Verifier, error) {
	parts := strings.SplitN(key, "+", 3)
	if len(parts) != 3 {
		return nil, errors.New("witness key has not three parts")
	}
	hash, err := strconv.ParseUint(parts[1], 16, 32)
	if err != nil {
		return nil, err
	}
	content, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(content) != 33 || content[0] != 4 {
		return nil, errors.New("witness key is not of type 0x04")
	}
	return witness{parts[0], uint32(hash), content[1:]}, nil
}

func openCheckpoint(content string, log note.Verifier, witnessKey string) (int64, tlog.Hash, error) {
	cosigner, err := newWitness(witnessKey)
	if err != nil {
		return 0, tlog.Hash{}, err
	}
	opened, err := note.Open([]byte(content), note.VerifierList(log, cosigner))
	if err != nil {
		return 0, tlog.Hash{}, err
	}
	if len(opened.Sigs) != 2 {
		return 0, tlog.Hash{}, fmt.Errorf("%d of 2 signatures hold", len(opened.Sigs))
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], log.Name()+"/") {
		return 0, tlog.Hash{}, errors.New("not three lines, or another log's")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return 0, tlog.Hash{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	return size, root, err
}

func hashes(raw [][]byte) []tlog.Hash {
	all := make([]tlog.Hash, len(raw))
	for number := range raw {
		copy(all[number][:], raw[number])
	}
	return all
}

func checkProofs(c *logCase, roots map[int64]tlog.Hash) error {
	for _, p := range c.Inclusion {
		leaf := tlog.RecordHash(p.Leaf)
		if err := tlog.CheckRecord(hashes(p.Proof), p.Size, roots[p.Size], p.Index, leaf); err != nil {
			return fmt.Errorf("inclusion of %d in %d: %w", p.Index, p.Size, err)
		}
	}
	for _, p := range c.Consistency {
		if err := tlog.CheckTree(hashes(p.Proof), p.Size, roots[p.Size], p.Old, roots[p.Old]); err != nil {
			return fmt.Errorf("consistency of %d with %d: %w", p.Old, p.Size, err)
		}
	}
	return nil
}

// tiles reads tiles as C2SP tlog-tiles names them: x/mod's own path has the height 8 in front.
type tiles struct{ folder string }

func (tiles) Height() int { return 8 }

func (t tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	read := make([][]byte, len(wanted))
	for number, tile := range wanted {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		content, err := os.ReadFile(filepath.Join(t.folder, filepath.FromSlash(path)))
		if err != nil {
			return nil, err
		}
		read[number] = content
	}
	return read, nil
}

func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// checkTiles computes proofs from the tiles, which x/mod authenticates against the root, and compares them with the given ones.
func checkTiles(c *logCase, folder string, roots map[int64]tlog.Hash) error {
	for _, p := range c.Inclusion {
		reader := tlog.TileHashReader(tlog.Tree{N: p.Size, Hash: roots[p.Size]}, tiles{folder})
		made, err := tlog.ProveRecord(p.Size, p.Index, reader)
		if err != nil {
			return fmt.Errorf("tiles of %d: %w", p.Size, err)
		}
		if fmt.Sprint([]tlog.Hash(made)) != fmt.Sprint(hashes(p.Proof)) {
			return fmt.Errorf("inclusion of %d in %d: Go proves it differently", p.Index, p.Size)
		}
	}
	for _, p := range c.Consistency {
		reader := tlog.TileHashReader(tlog.Tree{N: p.Size, Hash: roots[p.Size]}, tiles{folder})
		made, err := tlog.ProveTree(p.Size, p.Old, reader)
		if err != nil {
			return fmt.Errorf("tiles of %d: %w", p.Size, err)
		}
		if fmt.Sprint([]tlog.Hash(made)) != fmt.Sprint(hashes(p.Proof)) {
			return fmt.Errorf("consistency of %d with %d: Go proves it differently", p.Old, p.Size)
		}
	}
	return checkBundle(c, folder)
}

// checkBundle reads all entry bundles and compares the leaves with the level 0 tiles.
func checkBundle(c *logCase, folder string) error {
	seen := 0
	for number := 0; seen < len(c.Entries); number++ {
		width := len(c.Entries) - seen
		if width > 256 {
			width = 256
		}
		tile := tlog.Tile{H: 8, L: 0, N: int64(number), W: width}
		level0 := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		bundle, err := os.ReadFile(filepath.Join(folder, strings.Replace(level0, "tile/0/", "tile/entries/", 1)))
		if err != nil {
			return err
		}
		leaves, err := os.ReadFile(filepath.Join(folder, level0))
		if err != nil {
			return err
		}
		for at := 0; at < width; at++ {
			length := int(binary.BigEndian.Uint16(bundle))
			entry := bundle[2 : 2+length]
			hash := tlog.RecordHash(entry)
			if string(entry) != string(c.Entries[seen]) || string(hash[:]) != string(leaves[at*32:at*32+32]) {
				return fmt.Errorf("entry %d is not the leaf of its tile", seen)
			}
			bundle, seen = bundle[2+length:], seen+1
		}
		if len(bundle) != 0 {
			return fmt.Errorf("bundle %d has more than its entries", number)
		}
	}
	return nil
}
