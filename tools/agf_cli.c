/* agf, the command line program: explains pictures with a model file, and tells what a model file holds.
 *
 * It stands on agf.h alone. A command is a row of `commands` and has a room of its own (cli_explain.h, cli_neighbours.h for agf bank,
 * cli_watch.h, cli_info.h, cli_bench.h, cli_selftest.h); an option is a row of `options_known` in cli_options.h. What the rooms stand on,
 * from below: cli_base.h, cli_output.h (files are written whole or not at all), cli_png.h (encoded), cli_picture.h (read and checked),
 * cli_canvas.h and cli_figure.h (drawn), cli_page.h, cli_names.h, cli_explainer.h (what is to be done), cli_result.h (one picture),
 * cli_drawing.h and cli_report.h (what it writes and prints). */
#define _XOPEN_SOURCE 700 /* POSIX.1-2008 and realpath */
#define _DEFAULT_SOURCE   /* madvise */

#include "cli_bench.h"
#include "cli_explain.h"
#include "cli_info.h"
#include "cli_neighbours.h"
#include "cli_selftest.h"
#include "cli_watch.h"

static const struct command {
  const char *name, *arguments, *summary;
  int bit;
  int (*run)(const options *asked);
  const char *details;
} commands[] = {
    {"explain", "MODEL PICTURE...", "which pixels of a picture spoke for a class", EXPLAIN, run_explain,
     "PICTURE is a file (" READABLE "), - for standard input, a .npy float32 tensor [C, H, W] or [1, C, H, W] that goes into\n"
     "the network as it is, or a folder of those. Prints the 5 best classes, and writes what is asked for: red is\n"
     "evidence for the class, blue evidence against it. Several pictures need a folder after -o, or %p in the name; one\n"
     "that cannot be read is reported, and the others are done (exit code 1). A folder that a file is to be written into\n"
     "is made, below one that is there.\n"},
    {"bank", "MODEL FOLDER -o FILE", "latent vectors of pictures, for --bank", BANK, run_bank,
     "Computes what `explain --bank` compares pictures with, once, into a file. Interrupted or called again it goes on\n"
     "where it was: pictures that are in the file and did not change are not computed again, those that left the folder\n"
     "leave the file. A file that is no bank of this model is not written over.\n"},
    {"watch", "MODEL SOURCE", "explain frames as they come", WATCH, run_watch,
     "SOURCE is a folder, of which each new picture is explained, or a pipe (- is standard input) of JPEGs, as cameras' MJPEG is, or of "
     "raw frames (--frames). The newest frame is explained, and those that come in the meantime are dropped and counted.\n"},
    {"info", "MODEL", "what a model file holds, and the memory it needs", INFO, run_info,
     "Prints input, preprocessing, classes, parameters, memory of a session, and all layers.\n"},
    {"bench", "MODEL [PICTURE]", "how fast a model runs and explains here", BENCH, run_bench,
     "Times the forward pass, the explanation of one class and of a further one, on a picture or on noise, and sets\n"
     "them beside the machine's peak and bandwidth, probed between the runs. With -v, layer by layer.\n"},
    {"selftest", "", "whether this machine makes the right maps", SELFTEST, run_selftest,
     "Runs the small networks that the program carries, by every method and with every instruction set of this machine, and compares\n"
     "the SHA-256 of the maps with those of all other machines (exit code 1: some differ). The report has the times too.\n"},
};

enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static const char *command_name(int i, const void *unused) {
  (void)unused;
  return commands[i].name;
}

static const struct command *find_command(const char *name) {
  int i;

  for (i = 0; i < COMMAND_COUNT; i++)
    if (!strcmp(name, commands[i].name)) return &commands[i];
  fatal("unknown command %s%s; `agf --help` lists the commands", name, did_you_mean(name, command_name, NULL, COMMAND_COUNT));
  return NULL;
}

enum { HELP_WIDTH = 79, HELP_COLUMN = 24 };

/* Print text in lines of at most HELP_WIDTH columns that begin at `column`; the first one has `used` columns already. */
static void print_wrapped(const char *text, int column, int used) {
  if (used >= column && column) {
    putchar('\n');
    used = 0;
  }
  while (*text) {
    int length = (int)strcspn(text, " \n");

    if (used > column && used + 1 + length > HELP_WIDTH) {
      putchar('\n');
      used = 0;
    }
    if (used < column)
      used += printf("%*s", column - used, "");
    else if (used > column)
      used += printf(" ");
    used += printf("%.*s", length, text);
    text += length;
    text += strspn(text, " \n");
  }
  putchar('\n');
}

static void print_command_help(const struct command *c) {
  int i;

  printf("usage: agf %s %s [options]\n\n", c->name, c->arguments);
  print_wrapped(c->details, 0, 0);
  putchar('\n');
  for (i = 0; i < OPTION_COUNT; i++) {
    const option *o = &options_known[i];
    int used;

    if (!(o->commands & c->bit)) continue;
    used = printf("  %c%c%s --%s %s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ', o->letter ? "," : " ", o->name,
                  o->argument ? o->argument : "");
    print_wrapped(o->help, HELP_COLUMN, used);
  }
}

static void print_help(void) {
  int i;

  printf("usage: agf COMMAND ARGUMENT... [options]\n\nAttribution maps for convolutional networks.\n\n");
  for (i = 0; i < COMMAND_COUNT; i++)
    printf("  agf %s %-*s %s\n", commands[i].name, 23 - (int)strlen(commands[i].name), commands[i].arguments, commands[i].summary);
  printf("  agf %-24s %s\n  agf %-24s %s\n  agf %-24s %s\n", "help COMMAND", "a command's options", "help --man",
         "the manual page, for man", "--version", "the version");
  printf("\nExit code: 0 done, 1 some pictures failed, 2 nothing done because of bad input.\n");
}

/* Text for a manual page: '-' and '\\' have meanings there, and so has a '.' or a '\'' at the beginning of a line. */
static void print_roff(const char *text) {
  for (; *text; text++)
    if (*text == '-' || *text == '\\')
      printf("\\%s", *text == '-' ? "-" : "e");
    else if (*text == '\n')
      putchar(' ');
    else if (*text == '\'')
      printf("\\(cq");
    else
      putchar(*text);
}

static void print_man_page(void) {
  int i, k;

  printf(".TH AGF 1 \"\" \"agf %s\"\n.SH NAME\nagf \\- attribution maps for convolutional networks\n.SH SYNOPSIS\n", agf_version());
  for (i = 0; i < COMMAND_COUNT; i++) {
    printf("%s.B agf %s\n.I ", i ? ".br\n" : "", commands[i].name);
    print_roff(commands[i].arguments);
    printf(" \\fR[options]\n");
  }
  printf(
      ".SH DESCRIPTION\nShows which pixels of a picture spoke for or against a class that a convolutional network sees in it.\n");
  for (i = 0; i < COMMAND_COUNT; i++) {
    printf(".SH \"AGF %s\"\n", commands[i].name);
    print_roff(commands[i].details);
    putchar('\n');
    for (k = 0; k < OPTION_COUNT; k++) {
      const option *o = &options_known[k];

      if (!(o->commands & commands[i].bit)) continue;
      printf(".TP\n");
      if (o->letter) printf("\\fB\\-%c\\fR, ", o->letter);
      printf("\\fB\\-\\-");
      print_roff(o->name);
      printf("\\fR");
      if (o->argument) {
        printf(" \\fI");
        print_roff(o->argument);
        printf("\\fR");
      }
      putchar('\n');
      print_roff(o->help);
      putchar('\n');
    }
  }
  printf(".SH \"EXIT STATUS\"\n0: done. 1: some pictures failed, the others are done. 2: nothing was done because of bad input.\n");
}

static int run_command(const struct command *c, int count, char **argv) {
  options asked;
  int code = EXIT_SUCCESS;

  memset(&asked, 0, sizeof asked);
  asked.alpha = 0.8;
  parse_options(&asked, c->bit, c->name, count, argv);
  if (asked.help)
    print_command_help(c);
  else
    code = c->run(&asked);
  options_free(&asked);
  return code;
}

int main(int argc, char **argv) {
  const char *first = argc > 1 ? argv[1] : NULL;
  int code = EXIT_SUCCESS;

  whole_program_begin();
  keep_memory();
  catch_signals();
  if (!first) fatal("no command; `agf --help` lists the commands");
  if (!strcmp(first, "--version") || !strcmp(first, "-V"))
    printf("agf %s (reads model files up to version %d, and " READABLE "; maps of version %d)\n", agf_version(), AGF_FORMAT_VERSION,
           AGF_BITS_VERSION);
  else if (!strcmp(first, "--help") || !strcmp(first, "-h") || (!strcmp(first, "help") && argc == 2))
    print_help();
  else if (!strcmp(first, "help") && !strcmp(argv[2], "--man"))
    print_man_page();
  else if (!strcmp(first, "help"))
    print_command_help(find_command(argv[2]));
  else if (first[0] == '-')
    fatal("unknown option %s; `agf --help` lists the commands", first);
  else
    code = run_command(find_command(first), argc - 2, argv + 2);
  outputs_free();
  if (!flush_stdout()) {
    stop_if_interrupted(); /* nobody reads it */
    fatal("standard output cannot be written: %s", strerror(stdout_error));
  }
  return code;
}
