#define ERRNO_TABLE
#include "executor.h"

#include <string.h>
#include <unistd.h>

void text_add(struct text *text, const char *string)
{
	size_t size = strnlen(string, sizeof text->data - 1 - text->size);
	memcpy(text->data + text->size, string, size);
	text->size += size;
	text->data[text->size] = 0;
}

/*
 * Paths and names are the caller's: an escape sequence in one must not reach a terminal, nor its
 * 8-bit form (0x9b, U+009B), nor a mark that turns the direction of the text.
 */
void text_escape(struct text *text, const char *string, size_t size)
{
	static const char digits[] = "0123456789abcdef";
	for (size_t i = 0; i < size; i++) {
		unsigned char byte = (unsigned char)string[i];
		char plain[2] = {string[i], 0};
		char escaped[5] = {'\\', 'x', digits[byte >> 4], digits[byte & 15], 0};
		text_add(text, byte < 0x20 || byte >= 0x7f ? escaped : plain);
	}
}

void text_number(struct text *text, uint64_t value, unsigned base)
{
	char digits[68];
	size_t at = sizeof digits - 1;
	digits[at] = 0;
	do {
		digits[--at] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	if (base == 16)
		text_add(text, "0x");
	text_add(text, digits + at);
}

void text_errno(struct text *text, int error)
{
	size_t known = sizeof errno_names / sizeof *errno_names;
	if (error > 0 && (size_t)error < known && errno_names[error]) {
		text_add(text, errno_names[error]);
		return;
	}
	text_add(text, "errno ");
	text_number(text, (uint64_t)(error < 0 ? 0 : error), 10);
}

void text_write(const struct text *text, int fd)
{
	for (size_t done = 0; done < text->size;) {
		ssize_t size = write(fd, text->data + done, text->size - done);
		if (size < 0 && errno == EINTR)
			continue;
		if (size <= 0)
			return;
		done += (size_t)size;
	}
}

/* One line on standard error: "hardrun: problem: ERRNO". */
void tell(const char *problem, int error)
{
	struct text text = {.size = 0};
	text_add(&text, "hardrun: ");
	text_add(&text, problem);
	text_add(&text, error ? ": " : "");
	if (error)
		text_errno(&text, error);
	text_add(&text, "\n");
	text_write(&text, STDERR_FILENO);
}

/* Reads decimal digits at *cursor after blanks and moves it behind them. */
bool parse_number(const char **cursor, uint64_t *value)
{
	const char *at = *cursor;
	while (*at == ' ' || *at == '\n')
		at++;
	if (*at < '0' || *at > '9')
		return false;
	for (*value = 0; *at >= '0' && *at <= '9'; at++)
		*value = *value * 10 + (uint64_t)(*at - '0');
	*cursor = at;
	return true;
}
