package virtq
// placeholder
type Queue struct{}
