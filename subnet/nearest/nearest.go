// Package nearest finds the name that somebody meant who wrote another. It
// imports the standard library only.
package nearest

import "strings"

// Name returns which of the names was meant, without regard to case: the one
// that the fewest letters lead to, added, left out, changed, or swapped with
// their neighbour. It is "" where that would be more than two, or more than a
// third of the name.
func Name(meant string, names []string) string {
	best, least := "", min(2, len(meant)/3)+1
	for _, name := range names {
		if d := distance(strings.ToLower(meant), strings.ToLower(name)); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance is that of optimal string alignment, in bytes.
func distance(a, b string) int {
	if d := len(a) - len(b); d > 2 || d < -2 { // too far anyway: what is hostile may be long
		return 3
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			other := 1
			if a[i-1] == b[j-1] {
				other = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+other)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
