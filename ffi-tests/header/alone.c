/* The header and nothing else: it must bring what it needs. */
#include <kolo.h>
